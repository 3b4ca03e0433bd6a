"""Comparison of all configurations: bounds, diagnosis, tables, plots and the results page."""
