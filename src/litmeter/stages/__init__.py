"""The stages of dvc.yaml, a module each: ``main`` reads params.yaml, calls other packages, writes its files.

A stage raises LitmeterError for a wrong parameter, a missing model, a failed measurement or a full disk.
"""
