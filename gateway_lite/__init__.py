"""A small OpenAI-compatible gateway between users and the engines."""
