"""What keyed layers have beside ordinary ones: two permutations, and their reorderings."""

from torch import Tensor, nn

from operators.gather import Reorder, resolve_backend
from operators.offset import Geometry, disjoint_tiles
from operators.permutation import check_permutation, invert


class KeyedLayer(nn.Module):
    """Base of the layers from a map under ``in_key`` to one under ``out_key``.

    Permutations and index tables are non-persistent buffers: they move with ``.to(device)`` and
    never enter a ``state_dict``. For backends other than ``deform``, ``before`` and ``after`` are
    the reorderings around the native layer, and ``native`` its stride, padding and dilation.

    Args:
        geometry: of the layer.
        in_key, out_key: permutations of ``0..H*W-1`` and ``0..H_out*W_out-1``.
        backend: one of ``operators.BACKENDS``.
        ordinary: the arguments of the ordinary layer, where it is the other base.

    Raises:
        ValueError: permutations that do not fit the geometry, an unknown backend.
    """

    in_key: Tensor
    out_key: Tensor

    def __init__(
        self,
        geometry: Geometry,
        in_key: Tensor,
        out_key: Tensor,
        backend: str,
        *ordinary: object,
        **options: object,
    ) -> None:
        backend = resolve_backend(backend)
        in_key = check_permutation(in_key, geometry.image_size, "in_key")
        out_key = check_permutation(out_key, geometry.output_size, "out_key")
        super().__init__(*ordinary, **options)
        self.geometry, self.backend = geometry, backend
        self.image_size, self.output_size = geometry.image_size, geometry.output_size
        self.register_buffer("in_key", in_key, persistent=False)
        self.register_buffer("out_key", out_key, persistent=False)
        if backend == "deform":
            return
        tiles = disjoint_tiles(in_key, out_key, geometry)
        if tiles is None:
            self.give_keys(in_key, out_key)
        else:
            self.before, self.after = Reorder(tiles), nn.Identity()
            self.native = (geometry.kernel_size, 0, 1)

    def give_keys(self, in_key: Tensor, out_key: Tensor) -> None:
        """Take other keys, unchecked, or one for each image of the batch to come; not for deform.

        Shape: ``(H*W,)`` and ``(H_out*W_out,)``, or with ``N`` in front.
        """
        self.in_key, self.out_key = in_key, out_key
        self.before, self.after = Reorder(invert(in_key)), Reorder(out_key)
        self.native = (self.geometry.stride, self.geometry.padding, self.geometry.dilation)

    def check_input(self, x: Tensor, channels: int | str) -> None:
        """ValueError for an input that is no batch of maps of ``image_size``."""
        if x.dim() != 4 or tuple(x.shape[2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"input must have shape (N, {channels}, {height}, {width}) for this key, "
                f"got {tuple(x.shape)}"
            )
