"""The state directory, its files and locks."""
