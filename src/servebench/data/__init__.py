"""Photographs of one of three sources, checked, split, and listed in an index."""
