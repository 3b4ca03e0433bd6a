"""Atomic files, process groups, signals, temporary folders, the machine's fingerprint, text tables."""
