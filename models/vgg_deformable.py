"""VGG16 with deformable layers: the paper's network, on scrambled images (section 3).

The key of the image is undone by the sampling offsets of the first convolution, which scrambles its
own map by a fresh key; the next layer undoes that one, and so on. Between two layers every map is
scrambled, each by its own key. Batch normalisation and ReLU treat all positions alike and need no
key. The last pooling leaves one position, so that the classifier is the ordinary one.

Weights, their names and their number are those of ``models.vgg.VGG16``, and so are the outputs.
``key_network`` makes the same of VGG16 by itself, with the same keys.
"""

from torch import Tensor

from models.vgg import VGG16
from operators import ImageScrambler, KeyedConv2d, KeyedMaxPool2d


class VGG16Deformable(VGG16):
    """VGG16 for images that ``scrambler`` has scrambled.

    Shape: input ``(N, 3, H, W)`` of the scrambler's size, each side of 32 to 63 pixels; output
    logits ``(N, num_classes)``.

    Args:
        scrambler: the key of the images; the layers' keys are the next ones of its stream, in the
            order of the layers.
        num_classes: length of the logits.
        backend: how the layers compute: ``auto``, ``deform`` (the paper's operator), ``gather`` or
            ``triton``.

    Raises:
        ValueError: the last map of images of this size is not a single position.

    Example:
        >>> scrambler = ImageScrambler(32, seed=1312)
        >>> keyed, plain = VGG16Deformable(scrambler).eval(), VGG16().eval()
        >>> missing, unexpected = keyed.load_state_dict(plain.state_dict())
        >>> images = torch.rand(2, 3, 32, 32)
        >>> torch.allclose(keyed(scrambler(images)), plain(images), atol=1e-5)
        True
    """

    def __init__(
        self, scrambler: ImageScrambler, num_classes: int = 10, backend: str = "auto"
    ) -> None:
        stream = scrambler.layer_keys()
        size, key = scrambler.image_size, scrambler.key  # of the map that the next layer takes
        if not all(32 <= side < 64 for side in size):
            raise ValueError(f"VGG16 takes images of 32 to 63 pixels a side, got {size}")

        def keys_to(out_size: tuple[int, int]) -> dict:
            """What a layer with an output of this size needs; draws the key of that output."""
            nonlocal size, key
            in_size, in_key = size, key
            size, key = out_size, stream.draw(out_size[0] * out_size[1])
            return {"image_size": in_size, "in_key": in_key, "out_key": key, "backend": backend}

        def convolution(in_channels: int, out_channels: int) -> KeyedConv2d:
            return KeyedConv2d(in_channels, out_channels, 3, padding=1, **keys_to(size))

        def pooling() -> KeyedMaxPool2d:
            return KeyedMaxPool2d(2, **keys_to((size[0] // 2, size[1] // 2)))

        super().__init__(num_classes, convolution, pooling)

    @property
    def image_key(self) -> Tensor:
        """The key of the images, where the network lies."""
        return self.conv1.in_key
