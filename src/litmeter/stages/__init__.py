"""The stages of dvc.yaml, a module each: it reads params.yaml, calls a subpackage and writes its files."""
