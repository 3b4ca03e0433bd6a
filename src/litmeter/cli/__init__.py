"""The command ``litmeter``."""
