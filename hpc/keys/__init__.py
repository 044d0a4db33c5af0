"""Keys of clients, their limits and usage, and the tokens of batches."""
