"""Takes a sensitive label out of what the front releases."""
