"""The load generator: a process of its own that sends the requests of N users, or of a rate, to any URL."""

from litmeter.load.generator import LoadGenerator, LoadPlan, load_generator

__all__ = ["LoadGenerator", "LoadPlan", "load_generator"]
