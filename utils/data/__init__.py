"""Data sets, and the way from their images to a network's input."""
