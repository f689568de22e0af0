"""Images as bytes of one size: decoded once and kept, or streamed."""
