"""A network whose inner maps, too, are scrambled under a key of each image. Not in the paper.

Rekeying a batch (``operators.per_image``) gives every image its own key on the way to the server,
and leaves the layers' keys the same for all images. Here each image has its own key for every size
of map, so that whoever watches the server's memory without the key finds no statistics there.
"""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from models.keying.verify import compare
from operators import PerImageScrambler, SecretKey
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
        self._keys = _MapKeys(scrambler.secret)
        for layer in self.net.modules():
            if isinstance(layer, SPATIAL):
                # Bound methods, which are copied and pickled with what they are bound to.
                layer.register_forward_pre_hook(self._keys.before)
                layer.register_forward_hook(self._keys.after)
        convolution = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
        shape, nonces = (
            (getattr(convolution, "in_channels", 3), *scrambler.image_size),
            [b"0", b"1"],
        )
        compare(net, self, shape, send=lambda x: (scrambler.scramble(x, nonces), nonces))

    def forward(self, x: Tensor, nonces: Sequence[bytes]) -> Tensor:
        self._keys.start(nonces)
        # from the key of the image to that of its maps of the same size
        return self.net(self._keys.scramble(self.scrambler.unscramble(x, nonces)))


class _MapKeys:
    """The keys of one batch's maps, by size of map; each is derived once a batch."""

    def __init__(self, secret: SecretKey) -> None:
        self.secret = secret
        self.start(())

    def start(self, nonces: Sequence[bytes]) -> None:
        self.nonces = nonces
        self.keys: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def before(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Restore what a layer takes: a forward pre-hook."""
        key, inverse = self._of(inputs[0])
        return reorder(inputs[0], inverse, key)

    def after(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Scramble what a layer returns: a forward hook."""
        return self.scramble(output)

    def scramble(self, x: Tensor) -> Tensor:
        return reorder(x, *self._of(x))

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys of the batch's maps and their inverses, each ``(N, H*W)``."""
        size = tuple(x.shape[2:])
        if size not in self.keys:
            keys = self.secret.permutations(size[0] * size[1], self.nonces, index=1)
            self.keys[size] = keys.to(x.device), keys.argsort(1).to(x.device)
        return self.keys[size]
