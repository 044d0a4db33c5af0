"""Request records, counters, metrics, history and access log."""
