"""Image files in and out: any picture to a network's input size, tensors to files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F
from torchvision.utils import make_grid

from utils.io.atomic import write_atomically
from utils.runtime.errors import UserError

MAX_PIXELS = 100_000_000
# of Pillow's many readers, those that are asked for
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
ROW_GAP = 16  # pixels between the pictures of a row
T = TypeVar("T")


def read_image(path: Path) -> Image.Image:
    """Open a picture of any size and mode as RGB.

    Grey and palette images are converted, 16-bit ones scaled to 8 bits, transparency is laid on
    white and the camera's orientation tag is applied. Of several frames or pages the first counts.

    Raises:
        UserError: if the file is missing, empty, truncated, no image, or above 100 megapixels.
    """
    return read_with(path, upright)


def read_with(path: Path, convert: Callable[[Image.Image], T]) -> T:
    """What ``convert`` makes of a picture as it lies in its file.

    Raises:
        UserError: as ``read_image``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and odd metadata
        return _decode(path, convert)


def decode_image(path: Path) -> Image.Image:
    """``read_image`` for several threads at once, which cannot each hold back Pillow's warnings."""
    return _decode(path, upright)


def decode_indices(path: Path) -> np.ndarray:
    """The bytes of a grey or palette picture, uint8 ``(h, w)``: classes, not colours.

    Raises:
        UserError: as ``read_image``, and if a pixel is something else than one byte.
    """

    def indices(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise UserError(f"{path}: pixels of mode {image.mode}; expected grey or a palette")
        return np.array(image)

    return _decode(path, indices)


def _decode(path: Path, convert: Callable[[Image.Image], T]) -> T:
    try:
        if not path.is_file():
            what = "is a folder; expected an image" if path.is_dir() else "no such image file"
            raise UserError(f"{path}: {what}")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty; expected an image")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{path}: {width}x{height} pixels; at most {MAX_PIXELS // 10**6} megapixels"
                )
            if image.format == "TIFF" and image.mode in ("I", "F"):
                raise UserError(f"{path}: pixels of 32 bits; expected 8 or 16 bits a channel")
            image.load()
            return convert(image)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not an image; expected {' or '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path}: too many pixels; at most {MAX_PIXELS // 10**6} megapixels"
        ) from error
    except Exception as error:  # Pillow's decoders raise anything on damaged files
        reason = getattr(error, "strerror", None)  # of the operating system's errors only
        what = f"cannot be read ({reason})" if reason else f"damaged image ({error})"
        raise UserError(f"{path}: {what}") from error


def upright(image: Image.Image) -> Image.Image:
    """As RGB, with the camera's orientation tag applied."""
    return to_rgb(ImageOps.exif_transpose(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """As RGB, 8 bits a channel, pixels where they lie in the file."""
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a channel, in Pillow's 32
        grey = np.asarray(image, dtype=np.float64)
        return Image.fromarray((grey / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def fit(image: Image.Image, image_size: tuple[int, int]) -> torch.Tensor:
    """Crop the centre to the aspect ratio of ``image_size`` ``(H, W)`` and resize.

    Returns:
        uint8 ``(3, H, W)``.
    """
    height, width = image_size
    return to_tensor(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """An RGB image as uint8 ``(3, H, W)``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_picture(image: torch.Tensor) -> Image.Image:
    """The inverse of ``to_tensor``."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def save_png(image: torch.Tensor, path: Path) -> None:
    """Write uint8 ``(3, H, W)`` as PNG, pixel for pixel.

    Raises:
        UserError: if it cannot be written.
    """
    save(image, path, format="PNG")


def save(image: torch.Tensor, path: Path, **coding: object) -> None:
    """Write uint8 ``(3, H, W)`` as ``coding`` tells Pillow's ``Image.save``.

    Raises:
        UserError: if it cannot be written.
    """
    picture = to_picture(image)
    write_atomically(path, lambda file: picture.save(file, **coding))


def feature_grid(maps: torch.Tensor) -> torch.Tensor:
    """The first 16 feature maps of ``(C, H, W)`` as one picture, each in its own range of grey.

    Returns:
        float32 ``(3, H', W')`` in [0, 1]: four maps to a row.
    """
    channels = maps[:16].float().cpu()[:, None]  # (16, 1, H, W)
    return make_grid(channels, nrow=4, normalize=True, scale_each=True, pad_value=0.5)


def save_row(pictures: list[torch.Tensor], path: Path) -> None:
    """Write pictures side by side as PNG, each enlarged by the largest whole factor that fits.

    Args:
        pictures: float ``(3, H, W)`` in [0, 1] each; they fit into twice the height of the
            tallest, which is the row's, and twice the width of the widest.
        path: the file to write.

    Raises:
        UserError: if it cannot be written.
    """
    height, width = (2 * max(picture.shape[i] for picture in pictures) for i in (1, 2))
    row = []
    for picture in pictures:
        factor = min(height // picture.shape[1], width // picture.shape[2])
        large = picture.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        left = height - large.shape[1]
        row.append(F.pad(large, (0, ROW_GAP, left // 2, left - left // 2), value=1.0))
    whole = torch.cat(row, dim=2)[:, :, :-ROW_GAP]
    save_png((whole * 255).round().clamp(0, 255).to(torch.uint8), path)
