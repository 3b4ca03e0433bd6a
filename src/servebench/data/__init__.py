"""Stage ``data``: photographs of one of three sources, checked, split, and listed in an index."""

from servebench.data.index import INDEX_FILE, Index, Photo, read_index
from servebench.data.prepare import main

__all__ = ["INDEX_FILE", "Index", "Photo", "main", "read_index"]
