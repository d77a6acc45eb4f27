"""What the experiments share, in six rooms: cli, training, inference, data, io and runtime.

Each room uses only those after it.
"""
