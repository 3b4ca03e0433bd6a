"""Cost of the model in FLOPs and memory traffic, and the rate that the hardware allows in theory."""
