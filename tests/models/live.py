"""Networks whose logits depend on the image, without training."""

import torch


def with_live_statistics(net: torch.nn.Module) -> torch.nn.Module:
    """Batch-norm statistics of real activations, so that logits depend on the image, as trained."""
    layers = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.momentum = 1.0
        torch.nn.init.normal_(layer.bias, 0, 0.3)
    with torch.no_grad():
        net.train()(torch.rand(32, 3, 32, 32))
    return net.eval()
