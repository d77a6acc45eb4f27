"""Training, data, checkpoints and logging: what the scripts share and the operators do not need."""
