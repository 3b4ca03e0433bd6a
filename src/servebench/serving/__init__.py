"""The server: a LitAPI around the exported model, its entry point, and it as a context manager."""
