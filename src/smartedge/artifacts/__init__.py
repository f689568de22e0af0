"""Models of every file that is written, so that both sides write and read the same. No torch is imported here."""
