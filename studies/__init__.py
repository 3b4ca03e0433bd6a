"""Benchmarks of servebench itself; see README.md."""
