"""Choice of the model and of the replica."""
