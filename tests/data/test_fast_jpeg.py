"""simplejpeg gives Pillow's pixels, and whatever is not plain is left to Pillow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps_cli.data import fast_jpeg
from tbps_cli.data.image_files import MAX_PIXELS
from tbps_cli.data.images import UnreadableImage, read_image

pytest.importorskip("simplejpeg", reason="simplejpeg is not installed (extra fast)")


def jpeg(size: tuple[int, int] = (61, 97), mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    """A JPEG of noise that is smooth enough to have colours."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).resize(size)
    file = io.BytesIO()
    small.convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("quality", [20, 75, 95])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(61, 97), (8, 8), (640, 17)])
def test_the_pixels_are_equal(quality: int, subsampling: int, progressive: bool, size: tuple[int, int]) -> None:
    content = jpeg(size, quality=quality, subsampling=subsampling, progressive=progressive)
    fast = fast_jpeg.decoded(content, MAX_PIXELS)
    assert fast is not None and fast.dtype == np.uint8 and np.array_equal(fast, by_pillow(content))


def test_what_is_not_plain_is_left_to_pillow() -> None:
    turned = Image.Exif()
    turned[274] = 6
    assert fast_jpeg.decoded(jpeg(exif=turned.tobytes()), MAX_PIXELS) is None
    assert fast_jpeg.decoded(jpeg(mode="L"), MAX_PIXELS) is None
    assert fast_jpeg.decoded(jpeg(mode="CMYK"), MAX_PIXELS) is None
    assert fast_jpeg.decoded(jpeg()[:-300], MAX_PIXELS) is None
    assert fast_jpeg.decoded(jpeg(), 100) is None
    assert fast_jpeg.decoded(b"", MAX_PIXELS) is None and fast_jpeg.decoded(b"\xff\xd8\xff", MAX_PIXELS) is None
    assert fast_jpeg.decoded(Path("nowhere.jpg"), MAX_PIXELS) is None


def test_a_reader_gives_the_same_with_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    whole.write_bytes(jpeg())
    cut.write_bytes(jpeg()[:-200])
    fast = np.asarray(read_image(whole)), np.asarray(read_image(cut, allow_truncated=True))
    with pytest.raises(UnreadableImage) as said:
        read_image(cut)
    monkeypatch.setattr(fast_jpeg, "_library", lambda: None)
    slow = np.asarray(read_image(whole)), np.asarray(read_image(cut, allow_truncated=True))
    assert all(np.array_equal(one, other) for one, other in zip(fast, slow, strict=True))
    with pytest.raises(UnreadableImage) as again:
        read_image(cut)
    assert said.value.message == again.value.message


def test_damaged_bytes_never_give_other_pixels_than_pillow(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for seed in range(300):
        content = bytearray(jpeg((40, 60), seed=seed))
        for place in rng.integers(20, len(content), 3):
            content[place] = rng.integers(256)
        fast = fast_jpeg.decoded(bytes(content), MAX_PIXELS)
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
