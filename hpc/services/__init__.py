"""Services: replicas of a model, their life and phase."""
