"""All configurations compared, in tables and pictures."""
