"""Stage ``ceilings``: what the model costs, and the rate that the hardware allows in theory."""

from servebench.ceilings.run import main

__all__ = ["main"]
