"""Connections to a cluster's gateway, from the command line and from Python."""
