"""The exported model compiled for this machine: one package per precision and batch size."""
