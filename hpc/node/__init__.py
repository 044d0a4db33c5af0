"""What runs inside a job: the engine, its sidecar, heartbeats, the way out."""
