"""A network whose inner maps, too, are scrambled under a key of each image. Not in the paper.

Rekeying a batch (``operators.per_image``) gives every image its own key on the way to the server,
and leaves the layers' keys the same for all images. Here each image has its own key for every size
of map, so that whoever watches the server's memory without the key finds no statistics there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from operators import PerImageScrambler

SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class PerImageNetwork(nn.Module):
    """Runs a network on a batch in which every image and each of its maps has its own key.

    Convention: the input is scrambled by ``scrambler``; a map of ``n > 1`` positions of the image
    with nonce ``v`` is under ``secret.permutation(n, index=1, nonce=v)``. Maps of one size share a
    key, so that they can be added. Around each convolution and pooling the maps are restored and
    scrambled again, as the gather backend does. Everything else in the network must treat all
    positions alike.

    Shape: input ``(N, C, H, W)`` and ``N`` nonces, output as the network's.

    Args:
        net: the ordinary network; its parameters are used as they are.
        scrambler: moves whole pixels (not ``values``).

    Raises:
        ValueError: for a scrambler of single values.
    """

    def __init__(self, net: nn.Module, scrambler: PerImageScrambler) -> None:
        super().__init__()
        if scrambler.values:
            raise ValueError("maps are scrambled by whole pixels, got a scrambler of single values")
        self.net, self.scrambler = net, scrambler
        self._nonces: Sequence[bytes] = ()
        self._keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for layer in net.modules():
            if isinstance(layer, SPATIAL):
                layer.register_forward_pre_hook(lambda _, inputs: self._restore(inputs[0]))
                layer.register_forward_hook(lambda _, inputs, output: self._scramble(output))

    def forward(self, x: Tensor, nonces: Sequence[bytes]) -> Tensor:
        self._nonces, self._keys = nonces, {}
        # from the key of the image to that of its maps of the same size
        return self.net(self._scramble(self.scrambler.backward(x, nonces)))

    def _scramble(self, x: Tensor) -> Tensor:
        return _reorder(x, self._keys_for(x)[0])

    def _restore(self, x: Tensor) -> Tensor:
        return _reorder(x, self._keys_for(x)[1])

    def _keys_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the batch's maps and their inverses, each ``(N, H*W)``."""
        size = tuple(x.shape[2:])
        if size not in self._keys:
            secret = self.scrambler.secret
            keys = secret.permutations(size[0] * size[1], self._nonces, index=1)
            self._keys[size] = keys.to(x.device), keys.argsort(1).to(x.device)
        return self._keys[size]


def _reorder(x: Tensor, index: Tensor) -> Tensor:
    """``out[n, c, p] = x[n, c, index[n, p]]``; rows of pixels, which are contiguous channels_last.

    Shape: ``(N, C, H, W)`` and ``(N, H*W)`` -> ``(N, C, H, W)``, channels_last.
    """
    n, c, h, w = x.shape
    first = torch.arange(0, n * h * w, h * w, device=x.device)
    rows = (first[:, None] + index).flatten()  # (N*H*W,)
    pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, c)
    return pixels.index_select(0, rows).view(n, h, w, c).permute(0, 3, 1, 2)
