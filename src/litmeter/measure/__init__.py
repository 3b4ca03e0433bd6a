"""Measurement of one configuration: in-process and served rates, latency, accuracy, resource usage."""
