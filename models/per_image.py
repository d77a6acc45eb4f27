"""A network whose inner maps, too, are scrambled under a key of each image. Not in the paper.

Rekeying a batch (``operators.per_image``) gives every image its own key on the way to the server,
and leaves the layers' keys the same for all images. Here each image has its own key for every size
of map, so that whoever watches the server's memory without the key finds no statistics there.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from models.keying.key_network import planned
from models.keying.layout import MapKey
from models.keying.plan import Shared
from models.keying.verify import compare
from operators import PerImageScrambler, SecretKey


class PerImageNetwork(nn.Module):
    """Runs a network on a batch in which every image and each of its maps has its own key.

    Convention: the input is scrambled by ``scrambler``; a map of ``n > 1`` positions of the image
    with nonce ``v`` is under ``secret.permutation(n, index=1, nonce=v)``. It is planned as
    ``key_network`` does it, so that the maps of the layers lie scrambled for any network; where it
    divides a key into those of windows and of their positions, each follows from its own ``n``.

    Shape: input ``(N, C, H, W)`` and ``N`` nonces, output as the network's.

    Args:
        net: the ordinary network; it is copied and left as it is.
        scrambler: moves whole pixels (not ``values``).

    Raises:
        ValueError: for a scrambler of single values.
        KeyingError: if the network cannot be keyed, or the outputs are not those of ``net``.
    """

    def __init__(self, net: nn.Module, scrambler: PerImageScrambler) -> None:
        super().__init__()
        if scrambler.values:
            raise ValueError("maps are scrambled by whole pixels, got a scrambler of single values")
        self.scrambler, self._keys = scrambler, _KeysBySize(scrambler.secret)
        fixed = scrambler.fixed.key
        self._shared = Shared(MapKey(0, fixed.numel(), fixed), backend="gather", per_image=True)
        self.net = planned(net, scrambler.image_size, self._shared, self._keys)
        self.net.key_training(net.training)
        self.training, nonces = net.training, [b"0", b"1"]
        precision = self.net.modes[False].program.precision

        def send(images: Tensor) -> tuple[Tensor, list[bytes]]:
            given = nonces[: len(images)]
            return scrambler.scramble(images, given), given

        compare(net, self, self.net.image_shape, precision, send)

    def train(self, mode: bool = True) -> "PerImageNetwork":
        """As of any module.

        Raises:
            KeyingError: what the network does in training cannot be keyed.
        """
        self._give(None, self.scrambler.fixed.key)  # planned with common keys for all images
        return super().train(mode)

    def forward(self, x: Tensor, nonces: Sequence[bytes]) -> object:
        self._give(nonces, self.scrambler.keys_of(x, nonces))
        layers = [layer for mode in self.net.modes.values() for layer in mode.layers]
        for name, *keys in layers:  # both modes share layers
            self.net.get_submodule(name).give_keys(*(key.value.to(x.device) for key in keys))
        return self.net(x)

    def _give(self, nonces: Sequence[bytes] | None, image_keys: Tensor) -> None:
        """Fix the keys of a batch, or some that all images share."""
        self._keys.use(nonces)
        self._shared.image_key.give(image_keys)
        todo = list(self._shared.keys)
        for key in todo:
            todo.extend(key.parts)
            if not key.parts and key.root is not self._shared.image_key.root:
                key.give(self._keys.draw(key.positions))


class _KeysBySize:
    """The keys of a batch's maps; those of one size are the same, and are derived once."""

    def __init__(self, secret: SecretKey) -> None:
        self.secret = secret
        self.use(None)

    def use(self, nonces: Sequence[bytes] | None) -> None:
        self._nonces, self._drawn = nonces, {}

    def draw(self, n: int) -> Tensor:
        """``(N, n)``, or ``(n,)`` for keys that all images share."""
        if n not in self._drawn:
            keys = self.secret.permutations(n, self._nonces or [b""], index=1)
            self._drawn[n] = keys[0] if self._nonces is None else keys[: len(self._nonces)]
        return self._drawn[n]
