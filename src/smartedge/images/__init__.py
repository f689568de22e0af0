"""Images before a network sees them: their size, files decoded to pixels, random changes. Both sides use it."""
