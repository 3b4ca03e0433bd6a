"""The operating system: files, processes, signals, temporary folders, cores, memory, GPU, fingerprint."""
