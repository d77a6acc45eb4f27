"""What keyed layers have beside ordinary ones: two permutations, and their reorderings."""

from torch import Tensor, nn

from operators.gather import reorder_around, resolve_backend
from operators.offset import Size, output_size, pair
from operators.permutation import check_permutation


class KeyedLayer(nn.Module):
    """Base of the layers from a map under ``in_key`` to one under ``out_key``.

    Permutations and index tables are non-persistent buffers: they move with ``.to(device)`` and
    never enter a ``state_dict``. For backends other than ``deform``, ``before`` and ``after`` are
    the reorderings around the native layer, and ``native`` its stride, padding and dilation.

    Args:
        image_size: ``(H, W)`` of the input map, or ``H`` of a square one.
        window: kernel_size, stride, padding and dilation, and a pooling's ceil_mode.
        in_key, out_key: permutations of ``0..H*W-1`` and ``0..H_out*W_out-1``.
        backend: one of ``operators.BACKENDS``.
        ordinary: the arguments of the ordinary layer, where it is the other base.

    Raises:
        ValueError: geometry out of range, permutations that do not fit it, an unknown backend.
    """

    in_key: Tensor
    out_key: Tensor

    def __init__(
        self,
        image_size: Size,
        window: tuple,
        in_key: Tensor,
        out_key: Tensor,
        backend: str,
        *ordinary: object,
        **options: object,
    ) -> None:
        backend = resolve_backend(backend)
        image_size = pair(image_size, "image_size", minimum=1)
        geometry = (image_size, *window)
        out_size = output_size(*geometry)
        in_key = check_permutation(in_key, image_size, "in_key")
        out_key = check_permutation(out_key, out_size, "out_key")
        super().__init__(*ordinary, **options)
        self.image_size, self.output_size, self.backend = image_size, out_size, backend
        self.geometry = geometry
        self.register_buffer("in_key", in_key, persistent=False)
        self.register_buffer("out_key", out_key, persistent=False)
        if backend != "deform":
            self.before, self.after, tiled = reorder_around(in_key, out_key, *geometry)
            kernel_size, stride, padding, dilation, *_ = window
            self.native = (kernel_size, 0, 1) if tiled else (stride, padding, dilation)

    def check_input(self, x: Tensor, channels: int | str) -> None:
        """ValueError for an input that is no batch of maps of ``image_size``."""
        if x.dim() != 4 or tuple(x.shape[2:]) != self.image_size:
            height, width = self.image_size
            raise ValueError(
                f"input must have shape (N, {channels}, {height}, {width}) for this key, "
                f"got {tuple(x.shape)}"
            )
