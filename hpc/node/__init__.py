"""The processes inside a job: the engine, its sidecar, heartbeats and the shutdown."""

from hpc.node.replica import ServeReplica

__all__ = ["ServeReplica"]
