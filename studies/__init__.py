"""Measurements of litmeter itself; see README.md."""

DEVICE = "cpu"
TIMEOUT_S = 30
"""How long a request may take, for a server and for whoever sends it."""
