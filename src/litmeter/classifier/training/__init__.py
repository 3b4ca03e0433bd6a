"""Fine-tuning of a model on the photographs, and its test."""
