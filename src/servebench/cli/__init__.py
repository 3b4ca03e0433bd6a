"""The command ``servebench``."""
