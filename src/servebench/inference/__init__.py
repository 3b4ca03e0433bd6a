"""Image bytes to class probabilities, without a server: what the workers and the in-process baseline run."""
