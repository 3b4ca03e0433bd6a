"""Stage ``training``: fine-tune a timm model on the photographs, and test it once."""

from servebench.training.fit import main

__all__ = ["main"]
