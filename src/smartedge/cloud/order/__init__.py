"""The order in which the back learns from what came, written down so that it can be repeated."""
