"""The HTTP server: listeners, connections, and the parsing of requests."""
