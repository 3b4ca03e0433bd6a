"""One configuration: in-process and served, under load."""
