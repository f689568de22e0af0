"""Takes frames in: what is refused, what each edge has sent, and when a run is complete."""
