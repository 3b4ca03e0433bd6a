"""The stages of dvc.yaml, a module each: ``main`` reads params.yaml, calls a subpackage and writes its files.

What it cannot do is a LitmeterError: a wrong parameter, no model, a failed measurement, a file not written.
"""
