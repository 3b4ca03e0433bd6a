"""The load generator: a process of its own that keeps N users busy at any URL."""

from servebench.load.bodies import CONTENT_TYPE, CONTENT_TYPES, photo_bodies, request_bodies
from servebench.load.generator import Level, LevelPlan, generate

__all__ = [
    "CONTENT_TYPE",
    "CONTENT_TYPES",
    "Level",
    "LevelPlan",
    "generate",
    "photo_bodies",
    "request_bodies",
]
