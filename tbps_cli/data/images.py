"""Reading images: whatever lies on disk becomes 8-bit RGB, upright, or an error that names the file once.

The published pipelines open with PIL, convert to RGB and accept truncated files; the benchmarks' crops carry
no EXIF orientation, so turning those that do (photographs of one's own) changes no published number. Greyscale,
palette, CMYK, 16-bit, floating-point and transparent images are understood; transparent places become white. What
cannot be shown as a viewer would show it is refused, since a black image is ranked like any other.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from tbps_cli.data import fast_decode
from tbps_cli.data.image_files import HEIF, MAX_PIXELS
from tbps_cli.errors import DataError

TRUNCATED = "truncated"
"""Key of `image.info` that marks an image whose file ended early."""

MAX_BYTES = 1 << 30
"""A larger file is a video or a disk under an image's name: 100 million pixels with 16 bits a channel take 0.8 GB."""

_LISTINGS = 1024
"""Folders whose names are held at a time: sets of millions of images have a folder a person."""
_LENIENT = threading.Lock()
_PROGRAMS = frozenset(("EPS", "WMF"))
"""Formats that PIL hands to other programs (Ghostscript, Windows) to be drawn: nothing from outside is run."""
_SIXTEEN = re.compile(r";16[BLN]")
"""How PIL names colours of 16 bits a channel in a file."""
_WHITES = (1.0, 255.0, 4095.0, 65535.0)
"""Largest grey levels of files with fractions, 8, 12 and 16 bits."""


class UnreadableImage(DataError):
    """An image that cannot be used; `path` and `reason` are for counting and listing.

    lasting: whether the file must change before it is worth trying again (not so when the disk or the memory failed).
    """

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


@lru_cache(maxsize=1)
def reads_heif() -> bool:
    """Whether photographs of phones (HEIC) can be read: with the library pillow-heif (extra `heif`)."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def _register_heif(path: Path | str) -> None:
    if not reads_heif():
        raise UnreadableImage(path, "HEIC is read with pillow-heif, which is missing: pip install 'tbps[heif]'", False)


def check_size(path: Path | str) -> None:
    """Raise UnreadableImage for a file that is empty or too large, before anything of it is read."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116 - called for every image of a folder
    except OSError:
        return  # who opens it says why it cannot be
    if size == 0:  # also what is no file at all: entries of /proc can be read for ever
        raise UnreadableImage(path, "the file is empty")
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
    read = read_pixels(path, content=content, allow_truncated=allow_truncated, max_pixels=max_pixels)
    return read if isinstance(read, Image.Image) else Image.fromarray(read)


def read_pixels(
    path: Path | str,
    *,
    content: bytes | None = None,
    allow_truncated: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image | NDArray[np.uint8]:
    """The same as uint8 [H, W, 3] where that is what the decoder gives, or else as `read_image` has it."""
    if (fast := fast_decode.decoded(content if content is not None else path, max_pixels)) is not None:
        return fast
    try:
        with _opened(path, content, max_pixels) as image:
            return _loaded(image, partial(_opened, path, content, max_pixels))
    except UnreadableImage:
        raise
    except Exception as error:  # PIL's plugins let anything escape on damaged files
        if not allow_truncated:
            raise _unreadable(path, error) from None
    return _read_truncated(path, content, max_pixels)


def _opened(path: Path | str, content: bytes | None, max_pixels: int) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # our own limit, checked below, is the one that a user can set
    if content is None:
        check_size(path)
    if os.path.splitext(path)[1].lower() in HEIF:  # noqa: PTH122 - called for every image
        _register_heif(path)
    try:
        image = Image.open(path if content is None else io.BytesIO(content))
    except FileNotFoundError:
        raise UnreadableImage(path, "it does not exist", lasting=False) from None
    except IsADirectoryError:
        raise UnreadableImage(path, "it is a folder", lasting=False) from None
    except UnidentifiedImageError:
        raise UnreadableImage(path, _not_an_image(path)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(path, f"it has more than {max_pixels:,} pixels") from None
    except Exception as error:
        raise _unreadable(path, error) from None
    trouble = None
    if image.width * image.height > max_pixels:
        trouble = f"it has {image.width} x {image.height} pixels, more than {max_pixels:,}"
    elif image.format in _PROGRAMS:
        trouble = f"{image.format} files are programs that draw an image, and are not run"
    if trouble:
        image.close()
        raise UnreadableImage(path, trouble)
    return image


def _loaded(image: Image.Image, reopen: Callable[[], Image.Image]) -> Image.Image:
    """The decoded image as RGB, upright. Raises ValueError for one that would come out black."""
    # PIL keeps the upper 8 bits of 16-bit colours; in a file that holds 8 or 12 bits these are next to nothing.
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    upper_bits_only = len(image.getbands()) > 1 and any(_SIXTEEN.search(str(tile.args)) for tile in tiles)
    image.load()
    if upper_bits_only:
        if _colours(image).max() < 16:
            _use_lower_bits(image, reopen)
        elif "transparency" in image.info:
            image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
    return to_rgb(image)


def _colours(image: Image.Image) -> NDArray[np.uint8]:
    """[H, W, bands] without opacity."""
    bands: NDArray[np.uint8] = np.asarray(image)
    return bands[..., :-1] if image.mode in ("RGBA", "LA") else bands


def _use_lower_bits(image: Image.Image, reopen: Callable[[], Image.Image]) -> None:
    """Show 16-bit colours that hold 12 bits or fewer by the rule for greyscale: see `_white`.

    The lower 8 bits are what PIL reads when it is told the other order of bytes. Raises ValueError where it knows none.
    """
    with reopen() as again:
        assert isinstance(again, ImageFile.ImageFile)
        try:
            again.tile = [tile._replace(args=_other_order(tile.args)) for tile in again.tile]
            again.load()
        except (ValueError, SystemError, OSError):
            raise ValueError("it has 16 bits a channel but holds 12 or fewer, and its upper 8 bits are black") from None
        level = _colours(image).astype(np.int64) << 8 | _colours(again)
    shown = np.asarray(image).copy()
    shown[..., : level.shape[-1]] = np.rint(level * (255 / _white(level.astype(np.float64))))
    transparent = image.info.pop("transparency", None)
    if transparent is not None:
        shown[(level == transparent).all(axis=-1)] = 255
    image.paste(Image.fromarray(shown))


def _other_order(arguments: Any) -> Any:
    """The arguments of a decoder with the bytes of each 16-bit value taken the other way round."""
    if isinstance(arguments, tuple):
        return tuple(map(_other_order, arguments))
    if not isinstance(arguments, str):
        return arguments
    big = ";16B" in arguments or (";16N" in arguments and sys.byteorder == "big")
    return _SIXTEEN.sub(";16L" if big else ";16B", arguments)


def _read_truncated(path: Path | str, content: bytes | None, max_pixels: int) -> Image.Image:
    """Read again with PIL's leniency, which is a global switch: hence the lock, and its shortness."""
    with _LENIENT, _opened(path, content, max_pixels) as image:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            rgb = _loaded(image, partial(_opened, path, content, max_pixels))
        except Exception as error:
            raise _unreadable(path, error) from None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
    rgb.info[TRUNCATED] = True
    return rgb


def _unreadable(path: Path | str, error: Exception) -> UnreadableImage:
    """Any failure of PIL is that file's own reason: one file must never stop a folder from being searched."""
    if isinstance(error, MemoryError):
        return UnreadableImage(path, "there is not enough memory for it", lasting=False)
    # PIL's own errors are OSErrors too, but have no number; those with one come from the system
    return UnreadableImage(path, _reason(error), lasting=getattr(error, "errno", None) is None)


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
    """Any PIL image -> RGB with 8 bits, turned upright by its EXIF orientation; transparent places become white.

    Raises ValueError for grey levels that no viewer could show (NaN, mostly negative, beyond 16 bits).
    """
    image = _upright(image)
    transparent = "transparency" in image.info
    if image.mode == "RGB" and not transparent:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _eight_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or transparent:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata is no reason to refuse the image
        return image.copy()


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey levels of other than 8 bits; PIL's own conversion would clip them to white or black."""
    level = np.asarray(image).astype(np.float64)
    scaled = np.clip(np.rint(level * (255 / _white(level))), 0, 255)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[level == transparent] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _white(level: NDArray[np.float64]) -> float:
    """The grey level that is white. Files do not say it: it is the smallest usual one that (nearly) all values keep to.

    Fractions may overshoot, as after resampling or in images of high dynamic range, so there the bulk of the values
    decides: half of them below 1, or 99 % below another limit.
    """
    if not np.isfinite(level).all():
        raise ValueError("it holds values that are not finite numbers")
    low, middle, high, top = np.quantile(level, (0.05, 0.5, 0.99, 1))
    if low < 0:
        raise ValueError(f"its values go from {level.min():.4g} to {top:.4g}, where 0 to 1, 255 or 65535 was expected")
    whole = np.array_equal(level, np.rint(level))
    if not whole and middle <= 1:
        return 1.0
    found = next((white for white in _WHITES if (top if whole else high) <= white), None)
    if found is None:
        raise ValueError(f"its values go up to {top:.4g}, where at most 65535 was expected")
    return found


def _on_white(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image.convert("RGB"), mask=alpha)
    return white


def find_missing(paths: Sequence[Path]) -> list[Path]:
    """Those paths that are no files, in order. One listing per folder: 40,000 images in a moment."""
    listing = lru_cache(maxsize=_LISTINGS)(_files_in)
    return [path for path in paths if path.name not in listing(path.parent) and not path.is_file()]


def _files_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def require_images(paths: Sequence[Path], root: Path, name: str) -> None:
    """Raise DataError with a count and the first examples when any image is missing."""
    missing = find_missing(paths)
    if missing:
        shown = ", ".join(str(path.relative_to(root)) for path in missing[:5])
        raise DataError(
            f"{name}: {len(missing):,} of {len(paths):,} images are missing under {root} (first: {shown}).",
            f"Type: tbps prepare-data {name} (it lists all), or leave them out with data.exclude.",
        )
