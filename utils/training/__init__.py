"""Training: recipes, optimizers, the loop, and whole runs."""
