"""Bytes of HTTP bodies and heads: request fields, server-sent events, token usage."""
