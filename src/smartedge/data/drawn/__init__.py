"""The embedded faces: drawn by formula."""
