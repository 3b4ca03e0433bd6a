"""Fine-tuning a timm model on the photographs, and testing it once."""
