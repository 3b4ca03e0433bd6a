"""Plots of the results, as PNG files in assets/results/."""
