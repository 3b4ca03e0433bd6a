"""Measurements of litmeter itself; see README.md."""
