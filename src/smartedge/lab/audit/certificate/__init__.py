"""What no attacker can exceed: an upper bound, with its confidence, on what one release tells of an attribute."""
