"""Fine-tuning of a timm model on the photographs, and its test."""
