"""How far the instrument can be trusted: load generator and measuring against what is known."""
