"""Batches: files of requests that workers share, answer and merge into one output."""
