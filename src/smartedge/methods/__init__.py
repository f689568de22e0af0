"""Methods, schedules, one update of each part of a network, and the training loop."""
