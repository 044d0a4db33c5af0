"""Redaction of personal data in prompts and answers."""
