"""The processes inside a job: engine, sidecar, heartbeats and shutdown."""

from hpc.node.replica import ServeReplica

__all__ = ["ServeReplica"]
