"""Files of requests: read, share out, answer, merge."""
