"""Reading images: whatever lies on disk becomes 8-bit RGB, upright, or an error that names the file once.

The published pipelines open with PIL, convert to RGB and accept truncated files; the benchmarks' crops carry
no EXIF orientation, so turning those that do (photographs of one's own) changes no published number. Greyscale,
palette, CMYK, 16-bit and transparent images are understood; transparent places become white.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tbps_cli.errors import DataError

MAX_PIXELS = 100_000_000
TRUNCATED = "truncated"
"""Key of `image.info` that marks an image whose file ended early."""

MAX_BYTES = 1 << 30
"""A larger file is a video or a disk under an image's name: 100 million pixels with 16 bits a channel take 0.8 GB."""

_LENIENT = threading.Lock()
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, OverflowError)
"""What PIL's readers raise on damaged files."""


class UnreadableImage(DataError):
    """An image that cannot be used; `path` and `reason` are for counting and listing."""

    def __init__(self, path: Path | str, reason: str, lasting: bool = True) -> None:
        super().__init__(
            f"{path} cannot be read as an image: {reason}.",
            "Fetch the file again, or leave it out (data.exclude). tbps prepare-data lists all such files.",
        )
        self.path = Path(path)
        self.reason = reason
        self.lasting = lasting

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[Path, str, bool]]:
        return type(self), (self.path, self.reason, self.lasting)


def check_size(path: Path | str) -> None:
    """Raise UnreadableImage for a file that is too large to be an image, before anything of it is read."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116 - called for every image of a folder
    except OSError:
        return  # who opens it says why it cannot be
    if size > MAX_BYTES:
        raise UnreadableImage(path, f"the file has {size / 1e9:.1f} GB, more than {MAX_BYTES / 1e9:.1f} GB")


def read_image(
    path: Path | str,
    *,
    content: bytes | None = None,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The image as RGB, upright.

    content: the bytes of the file, where they have been read already.
    allow_truncated: take a file that ends early, as the papers do (missing rows are grey); the image
    is then marked with `TRUNCATED` in its `info`.
    max_pixels: images of more are refused before they are decoded.
    Raises UnreadableImage.
    """
    try:
        with _opened(path, content, max_pixels) as image:
            image.load()
            return to_rgb(image)
    except UnreadableImage:
        raise
    except _BROKEN as error:
        if not allow_truncated:
            raise UnreadableImage(path, _reason(error)) from None
    return _read_truncated(path, content, max_pixels)


def _opened(path: Path | str, content: bytes | None, max_pixels: int) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # our own limit, checked below, is the one that a user can set
    try:
        image = Image.open(path if content is None else io.BytesIO(content))
    except FileNotFoundError:
        raise UnreadableImage(path, "it does not exist") from None
    except IsADirectoryError:
        raise UnreadableImage(path, "it is a folder") from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, _not_an_image(path)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, f"it has more than {max_pixels:,} pixels") from None
    except _BROKEN as error:
        raise UnreadableImage(path, _reason(error)) from None
    if image.width * image.height > max_pixels:
        size = f"{image.width} x {image.height}"
        image.close()
        raise UnreadableImage(path, f"it has {size} pixels, more than {max_pixels:,}")
    return image


def _read_truncated(path: Path | str, content: bytes | None, max_pixels: int) -> Image.Image:
    """Read again with PIL's leniency, which is a global switch: hence the lock, and its shortness."""
    with _LENIENT, _opened(path, content, max_pixels) as image:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            image.load()
            rgb = to_rgb(image)
        except _BROKEN as error:
            raise UnreadableImage(path, _reason(error)) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    rgb.info[TRUNCATED] = True
    return rgb


def _not_an_image(path: Path | str) -> str:
    try:
        empty = Path(path).stat().st_size == 0
    except OSError:
        empty = False
    return "the file is empty" if empty else "no known image format"


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".").splitlines()[0]


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image -> RGB with 8 bits, turned upright by its EXIF orientation."""
    image = _upright(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _eight_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _BROKEN:  # damaged metadata is no reason to refuse the image
        return image.copy()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey levels of more than 8 bits; PIL's own conversion would clip them to white."""
    level = np.asarray(image).astype(np.float64)
    top = level.max(initial=0.0)
    scale = 255.0 if image.mode == "F" and top <= 1 else 1.0 if top <= 255 and image.mode in ("I", "F") else 1 / 257
    return Image.fromarray(np.clip(np.rint(level * scale), 0, 255).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=alpha)
    return white


def find_missing(paths: Sequence[Path]) -> list[Path]:
    """Those paths that are no files, in order. One listing per folder: 40,000 images in a moment."""
    folders: defaultdict[Path, set[str]] = defaultdict(set)
    for folder in {path.parent for path in paths}:
        try:
            with os.scandir(folder) as entries:
                folders[folder] = {entry.name for entry in entries if entry.is_file()}
        except OSError:
            continue
    return [path for path in paths if path.name not in folders[path.parent] and not path.is_file()]


def require_images(paths: Sequence[Path], root: Path, name: str) -> None:
    """Raise DataError with a count and the first examples when any image is missing."""
    missing = find_missing(paths)
    if missing:
        shown = ", ".join(str(path.relative_to(root)) for path in missing[:5])
        raise DataError(
            f"{name}: {len(missing):,} of {len(paths):,} images are missing under {root} (first: {shown}).",
            f"Type: tbps prepare-data {name} (it lists all), or leave them out with data.exclude.",
        )
