"""What may leave the edge, and what that costs."""
