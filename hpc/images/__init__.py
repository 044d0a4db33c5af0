"""Container images of engines."""
