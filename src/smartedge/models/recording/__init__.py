"""Writes down what a network does with a batch of images, as a graph."""
