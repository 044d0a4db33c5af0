"""Processes: gateway, sidecar, and the supervisor of several workers."""
