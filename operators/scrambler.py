"""Image scrambling: the client's half of the scheme (paper, section 3).

The paper's key of an ``(H, W)`` plane is a permutation ``k`` of its ``H*W`` row-major positions.
Scrambling is ``s[p] = x[k[p]]``, the same for every channel; unscrambling is its inverse. One
stream of permutations serves a whole network: the image's is drawn first, then one per layer output
in network order, as the published implementation draws them, so its seeds mean the same here.

Differs from the published code: planes need not be square, permutations come from a private
generator (the global random state of numpy and torch is neither read nor written), without a seed
they come from the operating system's entropy, and a 256-bit secret can take the seed's place.
"""

import copy

from torch import Tensor, nn

from operators.blocks import block_permutation, count_blocks
from operators.gather import reorder
from operators.key import SecretKey
from operators.offset import Size, pair
from operators.permutation import KeyStream, check_permutation, digest, invert


class ImageScrambler(nn.Module):
    """Scrambles and restores images with one key, and supplies the keys of a network's layers.

    Convention: ``scramble`` computes ``s[..., p] = x[..., key[p]]`` on flat row-major positions,
    ``unscramble`` the inverse; ``forward`` and ``backward`` are their published names. The key is a
    non-persistent buffer: it moves with ``.to(device)`` and never enters a ``state_dict``.

    Args:
        image_size: ``H`` of a square image, or ``(H, W)``, in pixels.
        seed: seed of the key stream, ``0..2**32 - 1``; None draws it from the system's entropy.
        secret: 256 bits that the stream is derived from, in place of a seed.
        key: the image's permutation of ``0..H*W-1`` itself; it takes the place of the stream's
            first one, and the layers' still come from the stream.
        block: side in pixels of square blocks that move as a whole, turned and mirrored, in place
            of single pixels; None for pixels. The layers' permutations are the same as without it.
            From a seed, the block key is what ``KeyStream(seed).draw_blocks`` gives first.

    Raises:
        ValueError: a size below 1, a seed out of range, a key that is no permutation, a block that
            does not divide the size, or a key and a block.

    Example:
        >>> scrambler = ImageScrambler(32, seed=1312)
        >>> image = torch.rand(8, 3, 32, 32)
        >>> torch.equal(scrambler.unscramble(scrambler.scramble(image)), image)
        True
    """

    key: Tensor
    inverse: Tensor

    def __init__(
        self,
        image_size: Size,
        seed: int | None = None,
        key: Tensor | None = None,
        secret: SecretKey | None = None,
        block: int | None = None,
    ) -> None:
        super().__init__()
        self.image_size = pair(image_size, "image_size", minimum=1)
        self.block = block
        self._layer_stream = KeyStream(seed, secret)
        self._secret = secret if key is None else None
        if block is not None:
            if key is not None:
                raise ValueError(f"give a key or a block, got both (block {block!r})")
            count = count_blocks(self.image_size, block)
            order, symmetry = copy.deepcopy(self._layer_stream).draw_blocks(count, block)
            key = block_permutation(self.image_size, block, order, symmetry)
        drawn = self._layer_stream.draw(self.image_size[0] * self.image_size[1])
        key = drawn if key is None else check_permutation(key, self.image_size)
        self.register_buffer("key", key, persistent=False)
        self.register_buffer("inverse", invert(key), persistent=False)

    def scramble(self, x: Tensor) -> Tensor:
        """Scramble ``x`` of shape ``(..., H, W)``, any device and dtype, into a new tensor."""
        return self._reorder(x, self.key, self.inverse)

    def unscramble(self, s: Tensor) -> Tensor:
        """Restore a scrambled ``s`` of shape ``(..., H, W)``: the inverse of ``scramble``."""
        return self._reorder(s, self.inverse, self.key)

    forward, backward = scramble, unscramble

    def _reorder(self, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"images must have shape (..., {height}, {width}) for this key, "
                f"got {tuple(x.shape)}"
            )
        return reorder(x, index.to(x.device), inverse.to(x.device))

    def layer_keys(self) -> KeyStream:
        """The stream just after the image key; each call starts there again, so that two networks
        built from one scrambler have the same layer keys."""
        return copy.deepcopy(self._layer_stream)

    def for_output(self, image_size: Size, index: int = 0) -> "ImageScrambler":
        """What restores a map that a network returns scrambled (``scramble_output``).

        Its key follows from the image key alone, so that a client restores a label map without the
        network: it is permutation number ``index`` of the ``SecretKey`` that is the SHA-256 of
        "PrivDL output key v1" and the image key, as signed 64-bit little-endian numbers.

        Args:
            image_size: of the returned map.
            index: how many scrambled maps come before it in the network's output.
        """
        size = pair(image_size, "image_size", minimum=1)
        secret = SecretKey(digest("PrivDL output key v1", self.key))
        return ImageScrambler(size, key=secret.permutation(size[0] * size[1], index))

    @property
    def cipher(self) -> str:
        """``pixels``, or ``blocks:N``."""
        return "pixels" if self.block is None else f"blocks:{self.block}"

    @property
    def fingerprint(self) -> str:
        """16 hex digits that identify the key without telling it; safe to print.

        That of a secret is its own at every size, with blocks that of the key derived for them.

        Whoever guesses the key can check the guess by it, which takes no picture, and a seed can be
        guessed: all 2^32 are soon tried.
        """
        if self._secret is not None:
            named = self._secret if self.block is None else self._secret.derive(self.cipher)
            return named.fingerprint
        height, width = self.image_size
        return digest(f"PrivDL image key {height}x{width}:", self.key).hex()[:16]

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}, fingerprint={self.fingerprint}"
