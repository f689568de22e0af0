"""The audit: attackers that are given everything but the images and the adversarial exits, and what they find."""
