"""Networks by name, cuts, exits, the bottleneck and the losses."""
