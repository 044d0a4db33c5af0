"""What runs inside a job: the engine, its sidecar, heartbeats, the way out."""

from hpc.node.replica import ServeReplica

__all__ = ["ServeReplica"]
