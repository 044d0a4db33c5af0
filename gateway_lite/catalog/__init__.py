"""Models and replicas, as the state directory, models.yaml and the scheduler report."""
