"""What is printed while something runs: progress, and tables of text."""
