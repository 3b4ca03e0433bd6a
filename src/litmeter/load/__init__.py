"""The load generator: a separate process that sends the requests of N users, or at a rate, to any URL."""

from litmeter.load.generator import LoadGenerator, LoadPlan, load_generator
from litmeter.load.trace import Trace

__all__ = ["LoadGenerator", "LoadPlan", "Trace", "load_generator"]
