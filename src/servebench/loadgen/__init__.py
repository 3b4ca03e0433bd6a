"""The load generator: a process of its own that sends the requests of N users, or of a rate, to any URL."""

from servebench.loadgen.generator import LoadPlan, generate

__all__ = ["LoadPlan", "generate"]
