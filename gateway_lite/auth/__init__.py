"""Client keys, rate limits and usage."""
