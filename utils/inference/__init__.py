"""Using a trained network: loading it, evaluating it, exporting it."""
