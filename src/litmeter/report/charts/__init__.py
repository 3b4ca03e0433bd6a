"""Charts of the results as data, and their drawers: Vega-Lite in report.html, matplotlib in assets/."""
