"""The gateway on the login node: start, stop, and the key of its owner."""
