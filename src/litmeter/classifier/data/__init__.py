"""The photos: read from one of three sources, checked, split, and listed in an index."""
