"""Serves LitAPIs: with LitServe's own processes, or with the direct transport (workers behind a socket)."""
