"""The cloud: accepts frames, keeps them in the feature log, trains the back from it."""
