"""What the model costs, and the rate that the hardware allows in theory."""
