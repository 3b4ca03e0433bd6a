"""The load generator: a process of its own that keeps N users busy at any URL, and knows nothing else."""

from servebench.loadgen.generator import LoadPlan, generate

__all__ = ["LoadPlan", "generate"]
