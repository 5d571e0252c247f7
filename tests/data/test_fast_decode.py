"""simplejpeg and pyspng give Pillow's pixels, and whatever is not plain is left to Pillow."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps_cli.data import fast_decode
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.data.images import UnreadableImage, read_image

pytest.importorskip("simplejpeg", reason="simplejpeg is not installed (extra fast)")
pytest.importorskip("pyspng", reason="pyspng is not installed (extra fast)")


def written(kind: str, size: tuple[int, int] = (61, 97), mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    """A file of noise that is smooth enough to have colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize(size)
    file = io.BytesIO()
    small.convert(mode).save(file, kind, **options)
    return file.getvalue()


jpeg, png = partial(written, "JPEG"), partial(written, "PNG")


def with_part(content: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with one part more, behind its header."""
    part = len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    return content[:33] + part + content[33:]


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("quality", [20, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(61, 97), (8, 8), (640, 17)])
def test_the_pixels_are_equal(quality: int, subsampling: int, progressive: bool, size: tuple[int, int]) -> None:
    content = jpeg(size, quality=quality, subsampling=subsampling, progressive=progressive)
    fast = fast_decode.decoded(content, MAX_PIXELS)
    assert fast is not None and fast.dtype == np.uint8 and np.array_equal(fast, by_pillow(content))


def test_what_is_not_plain_is_left_to_pillow() -> None:
    turned = Image.Exif()
    turned[274] = 6
    assert fast_decode.decoded(jpeg(exif=turned.tobytes()), MAX_PIXELS) is None
    assert fast_decode.decoded(jpeg(mode="L"), MAX_PIXELS) is None
    assert fast_decode.decoded(jpeg(mode="CMYK"), MAX_PIXELS) is None
    assert fast_decode.decoded(jpeg()[:-300], MAX_PIXELS) is None
    assert fast_decode.decoded(jpeg(), 100) is None
    assert fast_decode.decoded(b"", MAX_PIXELS) is None and fast_decode.decoded(b"\xff\xd8\xff", MAX_PIXELS) is None
    assert fast_decode.decoded(Path("nowhere.jpg"), MAX_PIXELS) is None


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", [(61, 97), (1, 1), (640, 17), (128, 384)])
def test_the_pixels_of_a_png_are_equal(level: int, size: tuple[int, int]) -> None:
    content = png(size, compress_level=level)
    fast = fast_decode.decoded(content, MAX_PIXELS)
    assert fast is not None and fast.dtype == np.uint8 and np.array_equal(fast, by_pillow(content))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"gAMA", (45455).to_bytes(4, "big")),
        (b"sRGB", b"\0"),
        (b"sBIT", b"\5\6\5"),
        (b"bKGD", b"\0\xff\0\0\0\xff"),
        (b"pHYs", bytes(9)),
        (b"tEXt", b"Software\0Adobe ImageReady"),
    ],
)
def test_what_else_a_png_says_changes_no_pixel(kind: bytes, data: bytes) -> None:
    content = with_part(png(), kind, data)
    fast = fast_decode.decoded(content, MAX_PIXELS)
    assert fast is not None and np.array_equal(fast, by_pillow(content))


@pytest.mark.parametrize("filter_of_lines", [0, 1, 2, 3, 4])
def test_every_filter_of_a_png_is_undone(filter_of_lines: int) -> None:
    rng = np.random.default_rng(filter_of_lines)
    lines = b"".join(bytes([filter_of_lines]) + rng.bytes(31 * 3) for _ in range(20))
    header = (31).to_bytes(4, "big") + (20).to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    )
    fast = fast_decode.decoded(content, MAX_PIXELS)
    assert fast is not None and np.array_equal(fast, by_pillow(content))


def test_pngs_that_are_not_plain_are_left_to_pillow() -> None:
    turned = Image.Exif()
    turned[274] = 6
    left = [
        png(exif=turned.tobytes()),
        with_part(png(), b"tEXt", b"Raw profile type exif\0\nexif\n"),
        with_part(png(), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta/>"),
        with_part(png(), b"tRNS", bytes(6)),
        with_part(png(), b"acTL", (1).to_bytes(4, "big") + bytes(4)),
        png()[:-300],
        png()[:-12],
        png()[:40],
        b"\x89PNG\r\n\x1a\n",
        *(png(mode=mode) for mode in ("L", "LA", "RGBA", "P", "1", "I;16")),
    ]
    assert [fast_decode.decoded(content, MAX_PIXELS) for content in left] == [None] * len(left)
    assert fast_decode.decoded(png(), 100) is None


@pytest.mark.parametrize(("ending", "content"), [("jpg", jpeg()), ("png", png())])
def test_a_reader_gives_the_same_with_and_without_it(
    ending: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    whole.write_bytes(content)
    cut.write_bytes(content[:-200])
    fast = np.asarray(read_image(whole)), np.asarray(read_image(cut, allow_truncated=True))
    with pytest.raises(UnreadableImage) as said:
        read_image(cut)
    monkeypatch.setattr(fast_decode, "_library", lambda _: None)
    slow = np.asarray(read_image(whole)), np.asarray(read_image(cut, allow_truncated=True))
    assert all(np.array_equal(one, other) for one, other in zip(fast, slow, strict=True))
    with pytest.raises(UnreadableImage) as again:
        read_image(cut)
    assert said.value.message == again.value.message


@pytest.mark.parametrize("drawn", [jpeg, png])
def test_damaged_bytes_never_give_other_pixels_than_pillow(drawn: Callable[..., bytes]) -> None:
    rng = np.random.default_rng(1)
    for seed in range(300):
        content = bytearray(drawn((40, 60), seed=seed))
        for place in rng.integers(20, len(content), 3):
            content[place] = rng.integers(256)
        fast = fast_decode.decoded(bytes(content), MAX_PIXELS)
        if fast is not None:
            try:
                expected = by_pillow(bytes(content))
            except Exception:  # Pillow refuses it
                continue
            assert np.array_equal(fast, expected)


def test_photographs_of_phones_are_read_where_the_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed (extra heif)")
    image = Image.new("RGB", (32, 48), (200, 30, 30))
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=90)
    found = read_image(tmp_path / "a.heic")
    assert found.size == (32, 48) and np.abs(np.asarray(found).astype(int) - (200, 30, 30)).max() < 8
    from tbps_cli.data import images

    monkeypatch.setattr(images, "reads_heif", lambda: False)
    with pytest.raises(UnreadableImage, match="pillow-heif"):
        read_image(tmp_path / "a.heic")
