"""What a run does: methods, schedules, one update of each part of a network, and the training loop."""
