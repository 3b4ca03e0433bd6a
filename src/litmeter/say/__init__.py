"""What a person reads while something runs: progress, and tables of text."""
