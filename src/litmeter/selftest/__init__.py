"""Self-test: load generator and statistics against a server of known latency and rate."""
