"""Search of the configuration that serves most on this machine: `make tune`."""
