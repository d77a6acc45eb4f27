"""A network whose inner maps, too, are scrambled under a key of each image. Not in the paper.

Rekeying a batch (``operators.per_image``) gives every image its own key on the way to the server,
and leaves the layers' keys the same for all images. Here each image has its own key for every size
of map, so that whoever watches the server's memory without the key finds no statistics there.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from models.keying.verify import compare
from operators import PerImageScrambler
from operators.gather import reorder

SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


class PerImageNetwork(nn.Module):
    """Runs a network on a batch in which every image and each of its maps has its own key.

    Convention: the input is scrambled by ``scrambler``; a map of ``n > 1`` positions of the image
    with nonce ``v`` is under ``secret.permutation(n, index=1, nonce=v)``. Maps of one size share a
    key, so that they can be added. Around each convolution and pooling of a fixed window the maps
    are restored and scrambled again, as the gather backend does. Everything else in the network
    must treat all positions alike; whether it does is tried out on random images.

    Shape: input ``(N, C, H, W)`` and ``N`` nonces, output as the network's.

    Args:
        net: the ordinary network; it is copied and left as it is.
        scrambler: moves whole pixels (not ``values``).

    Raises:
        ValueError: for a scrambler of single values.
        KeyingError: if the outputs are not those of ``net``.
    """

    def __init__(self, net: nn.Module, scrambler: PerImageScrambler) -> None:
        super().__init__()
        if scrambler.values:
            raise ValueError("maps are scrambled by whole pixels, got a scrambler of single values")
        self.net, self.scrambler = copy.deepcopy(net), scrambler
        self._start(())
        for layer in self.net.modules():
            if isinstance(layer, SPATIAL):
                # Bound methods, which are copied and pickled with what they are bound to.
                layer.register_forward_pre_hook(self._restore)
                layer.register_forward_hook(self._scramble)
        convolution = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
        shape = (getattr(convolution, "in_channels", 3), *scrambler.image_size)
        nonces = [b"0", b"1"]
        compare(net, self, shape, send=lambda x: (scrambler.scramble(x, nonces), nonces))

    def forward(self, x: Tensor, nonces: Sequence[bytes]) -> Tensor:
        self._start(nonces)
        natural = self.scrambler.unscramble(x, nonces)
        return self.net(reorder(natural, *self._keys_of(natural)))

    def _start(self, nonces: Sequence[bytes]) -> None:
        """Of each batch, the keys of its maps are derived once, by size of map."""
        self._nonces = nonces
        self._keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def _keys_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the batch's maps of the size of ``x`` and their inverses, each ``(N, H*W)``."""
        size = tuple(x.shape[2:])
        if size not in self._keys:
            keys = self.scrambler.secret.permutations(size[0] * size[1], self._nonces, index=1)
            self._keys[size] = keys.to(x.device), keys.argsort(1).to(x.device)
        return self._keys[size]

    def _restore(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """What a layer takes, in natural order: a forward pre-hook."""
        key, inverse = self._keys_of(inputs[0])
        return reorder(inputs[0], inverse, key)

    def _scramble(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """What a layer returns, under the key of its size: a forward hook."""
        return reorder(output, *self._keys_of(output))
