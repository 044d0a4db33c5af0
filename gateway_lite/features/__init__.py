"""Optional features, off by default: cache, redaction, Ollama, tracing, CORS."""
