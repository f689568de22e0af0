"""The store: what the cloud keeps of each edge, and copies of it elsewhere."""
