"""The audit of features that did not come from a run of smartedge: a file, or arrays in memory."""
