"""Divides a network at a point of its recorded graph."""
