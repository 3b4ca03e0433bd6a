"""What a person reads on a terminal: progress and tables."""
