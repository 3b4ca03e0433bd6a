"""Measure model servers, search faster settings for them, and explain what limits them."""
