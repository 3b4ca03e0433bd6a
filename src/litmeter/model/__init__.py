"""Image bytes to class probabilities; run by the server's workers and by the in-process baseline."""
