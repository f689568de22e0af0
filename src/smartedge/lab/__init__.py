"""The laboratory round the method: plan before a run, audit and report after it, sweep over many. Imports the core."""
