"""Requests go straight from the HTTP process to a free worker, and answers straight back."""
