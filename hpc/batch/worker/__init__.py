"""The worker of a batch, which runs in a job."""
