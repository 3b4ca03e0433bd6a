"""The stages of dvc.yaml, a module each: it reads its section, calls its room and writes its files."""
