"""report.html: one file with all results, its charts drawn in the browser without a network."""
