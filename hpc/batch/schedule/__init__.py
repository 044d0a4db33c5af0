"""Recurring batches."""
