"""The order of the pixels in the label maps that a network returns for scrambled images.

A keyed network returns its maps under an output key that follows from the client's key alone
(``ImageScrambler.for_output``). A network without a key answers each pixel where it received it, so
that its maps lie under the image's key.
"""

from dataclasses import dataclass

from torch import Tensor

import models
from operators import ImageScrambler, PerImageScrambler


@dataclass(frozen=True)
class LabelKeys:
    """The client's means to put label maps right.

    Attributes:
        scrambler: of the maps, where all lie under one key.
        per_image: of maps that lie each under the key of its image; None for one key.
    """

    scrambler: ImageScrambler
    per_image: PerImageScrambler | None = None

    @classmethod
    def of(
        cls, net: str, scrambler: ImageScrambler | None, per_image: PerImageScrambler | None
    ) -> "LabelKeys | None":
        """Of the maps of the network of this name.

        Args:
            net: a name of the registry.
            scrambler: of the images; None for plain ones, whose maps are in order.
            per_image: of images that have a key each.
        """
        if scrambler is None:
            return None
        if models.is_keyed(net):
            return cls(scrambler.for_output(scrambler.image_size))
        return cls(scrambler, per_image)

    def scramble(self, maps: Tensor, images: Tensor) -> Tensor:
        """Label maps ``(n, H, W)`` in the order in which the network returns them.

        Args:
            maps: in natural order.
            images: what they belong to, uint8 ``(n, 3, H, W)``, not scrambled.
        """
        if self.per_image is None:
            return self.scrambler.scramble(maps)
        return self.per_image.scramble(maps[:, None], self.per_image.nonces_for(images))[:, 0]

    def restore(self, maps: Tensor, images: Tensor) -> Tensor:
        """Label maps ``(n, H, W)`` in natural order: the inverse of ``scramble``."""
        if self.per_image is None:
            return self.scrambler.unscramble(maps)
        return self.per_image.unscramble(maps[:, None], self.per_image.nonces_for(images))[:, 0]
