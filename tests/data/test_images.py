"""Images as they come: other modes, broken files, limits."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features
from PIL.PngImagePlugin import PngImageFile
from support.sets import save_image

from tbps_cli.data.images import (
    TRUNCATED,
    UnreadableImage,
    check_size,
    find_missing,
    read_image,
    require_images,
    to_rgb,
)
from tbps_cli.errors import DataError


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


PILLOWS = Image.new("P", (6, 9))
"""With a table of colours: the quicker decoders leave it to Pillow."""


def corner(image):
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("LA", (40, 255), (40, 40, 40)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected, tmp_path):
    image = read_image(saved(tmp_path, Image.new(mode, (6, 9), colour)))
    assert (image.mode, image.size, corner(image)) == ("RGB", (6, 9), expected)


def test_cmyk_and_float_images_become_rgb(tmp_path):
    cmyk = read_image(saved(tmp_path, Image.new("CMYK", (6, 9), (0, 255, 255, 0)), "a.jpg"))
    assert corner(cmyk)[0] > 200 and max(corner(cmyk)[1:]) < 60
    assert corner(to_rgb(Image.new("F", (2, 2), 0.5))) == (128, 128, 128)
    assert corner(to_rgb(Image.new("F", (2, 2), 77.0))) == (77, 77, 77)
    assert corner(to_rgb(Image.new("I", (2, 2), 200))) == (200, 200, 200)


def test_a_palette_with_transparency_becomes_white_there(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert corner(read_image(saved(tmp_path, palette, transparency=0))) == (255, 255, 255)
    assert corner(read_image(saved(tmp_path, palette))) == (255, 0, 0)


@pytest.mark.parametrize(("orientation", "size"), [(1, (4, 8)), (3, (4, 8)), (6, (8, 4)), (8, (8, 4))])
def test_a_photograph_is_turned_upright(orientation, size, tmp_path):
    image = Image.new("RGB", (4, 8))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert read_image(saved(tmp_path, image, "a.jpg", exif=exif)).size == size


def test_an_rgb_file_gives_its_own_bytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(read_image(saved(tmp_path, Image.fromarray(noise)))), noise)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_a_truncated_file_is_refused_or_used_and_marked(suffix, tmp_path):
    path = save_image(tmp_path / f"a.{suffix}", size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UnreadableImage):
        read_image(path)
    image = read_image(path, allow_truncated=True)
    assert image.size == (64, 64) and image.info[TRUNCATED]
    assert TRUNCATED not in read_image(save_image(tmp_path / "b.png"), allow_truncated=True).info


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "the file is empty"), (b"<html>", "no known image"), (b"\x89PNG\r\n\x1a\n", ".")]
)
def test_what_is_no_image_is_an_error_with_its_path(content, reason, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for lenient in (False, True):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            read_image(path, allow_truncated=lenient)
        assert caught.value.path == path and str(path) in caught.value.message


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UnreadableImage, match="does not exist"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="folder"):
        read_image(tmp_path)


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (3000, 3000)))
    with pytest.raises(UnreadableImage, match="3000 x 3000 pixels, more than 1,000,000"):
        read_image(path, max_pixels=1_000_000)
    assert read_image(path, max_pixels=9_000_000).size == (3000, 3000)


def test_a_bomb_is_refused_whatever_pil_thinks_of_it(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("1", (3000, 3000)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="pixels"):
        read_image(path, max_pixels=1000)


def test_the_error_survives_its_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "it is gone")))
    assert (error.path.name, error.reason, error.message) == (
        "a.png",
        "it is gone",
        UnreadableImage("a.png", "it is gone").message,
    )


def test_missing_images_are_counted_with_the_first_examples(tmp_path):
    paths = [save_image(tmp_path / f"x/{number}.png") for number in range(4)]
    lost = [tmp_path / "x/9.png", tmp_path / "y/1.png"]
    assert find_missing([*paths, *lost]) == lost
    (tmp_path / "link.png").symlink_to(paths[0])
    require_images([*paths, tmp_path / "link.png"], tmp_path, "own")
    with pytest.raises(DataError, match=r"own: 2 of 6 images are missing under .* \(first: x/9.png, y/1.png\)"):
        require_images([*paths, *lost], tmp_path, "own")


# What a viewer shows, or a reason ---------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path, level, *, colour=2, transparent=b"", texts=b""):
    """A PNG of 16 bits a channel, which PIL cannot write: 9 x 9 pixels, every value equal to `level`."""
    rows = b"".join(b"\0" + struct.pack(">H", level) * {2: 3, 6: 4, 4: 2}[colour] * 9 for _ in range(9))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, colour, 0, 0, 0))
    middle = (chunk(b"tRNS", transparent) if transparent else b"") + texts
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (0.5, 128), (1.0, 255), (128.4, 128), (77.0, 77), (200.0, 200), (40_000.5, 156), (65535.0, 255),
    ],
)  # fmt: skip
def test_floating_point_files_are_shown_at_their_brightness(level, shown, tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((9, 9), level, np.float32)), "a.tif")
    assert corner(read_image(path)) == (shown,) * 3


@pytest.mark.parametrize(("bulk", "highlight", "shown"), [(0.5, 1.02, 128), (0.25, 40.0, 64), (99.5, 255.7, 100)])
def test_a_few_bright_values_do_not_turn_a_floating_point_image_black(bulk, highlight, shown, tmp_path):
    level = np.full((40, 40), bulk, np.float32)
    level[-1, -1] = highlight
    image = read_image(saved(tmp_path, Image.fromarray(level), "a.tif"))
    assert corner(image) == (shown,) * 3 and image.getpixel((39, 39)) == (255,) * 3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([0.5, np.nan], "not finite numbers"),
        ([0.5, np.inf], "not finite numbers"),
        ([-2.0, 2.5], "its values go from -2 to 2.5"),
        ([3.5, 1e6], "its values go up to 1e"),
    ],
)
def test_floating_point_files_without_a_meaning_are_refused(values, reason, tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([values] * 9, np.float32)), "a.tif")
    for lenient in (False, True):
        with pytest.raises(UnreadableImage, match=reason):
            read_image(path, allow_truncated=lenient)


@pytest.mark.parametrize(
    ("top", "level", "shown"), [(255, 200, 200), (4095, 2048, 128), (65535, 32768, 128), (0, 0, 0)]
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_files_of_16_bits_that_hold_fewer_are_not_black(top, level, shown, suffix, tmp_path):
    values = np.full((9, 9), level, np.uint16)
    values[-1, -1] = top
    assert corner(read_image(saved(tmp_path, Image.fromarray(values), f"a.{suffix}"))) == (shown,) * 3


def deep_file(folder, values, suffix):
    """Colours of 16 bits a channel, [H, W, 3 or 4], which PIL cannot write, as PNG or TIFF."""
    height, width, bands = values.shape
    if suffix == "png":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0))
        parts = [b"\x89PNG\r\n\x1a\n", head, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
        content = b"".join(parts)
    else:
        order = {"little.tif": "<", "big.tif": ">"}[suffix]
        pixels = values.astype(f"{order}u2").tobytes()
        bits = struct.pack(f"{order}{bands}H", *[16] * bands)
        entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, bands, 8 + len(pixels)), (259, 3, 1, 1)]
        entries += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height), (279, 4, 1, len(pixels))]
        entries += [(338, 3, 1, 2)] * (bands == 4)
        table = struct.pack(f"{order}H", len(entries))
        for tag, kind, count, value in entries:
            short = kind == 3 and count == 1
            table += struct.pack(f"{order}HHI" + ("HH" if short else "I"), tag, kind, count, value, *[0] * short)
        start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels) + len(bits))
        content = start + pixels + bits + table + bytes(4)
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "little.tif", "big.tif"])
@pytest.mark.parametrize(
    ("top", "level", "shown"),
    [
        (255, (200, 10, 1), (200, 10, 1)),
        (4095, (2048, 256, 15), (128, 16, 1)),
        (65535, (32768, 4096, 15), (128, 16, 0)),
        (0, (0, 0, 0), (0, 0, 0)),
    ],
)
def test_colour_files_of_16_bits_that_hold_fewer_are_not_black(top, level, shown, suffix, tmp_path):
    """The same rule as for grey: 8, 12 or 16 bits, the smallest that all values keep to."""
    values = np.full((9, 9, 3), level, np.uint16)
    values[-1, -1] = top
    assert corner(read_image(deep_file(tmp_path, values, suffix))) == shown


@pytest.mark.parametrize("suffix", ["png", "little.tif", "big.tif"])
def test_opacity_of_16_bits_does_not_hide_that_the_colours_hold_fewer(suffix, tmp_path):
    """An opaque one has 65535 in its last channel: such files came out black."""
    values = np.full((9, 9, 4), (200, 10, 1, 65535), np.uint16)
    values[0, 0] = (255, 255, 255, 0)
    image = read_image(deep_file(tmp_path, values, suffix))
    assert (image.getpixel((5, 5)), corner(image)) == ((200, 10, 1), (255, 255, 255))


def test_a_transparent_colour_of_few_bits_is_white_and_its_neighbours_are_not(tmp_path):
    path = deep_png(tmp_path / "a.png", 200, transparent=struct.pack(">3H", 200, 200, 200))
    assert corner(read_image(path)) == (255, 255, 255)
    path = deep_png(tmp_path / "a.png", 200, transparent=struct.pack(">3H", 200, 200, 201))
    assert corner(read_image(path)) == (200, 200, 200)


def test_a_form_whose_lower_bits_pil_cannot_read_is_refused_rather_than_black(tmp_path):
    for level in (200, 4095):
        with pytest.raises(UnreadableImage, match="16 bits a channel but holds 12 or fewer"):
            read_image(deep_png(tmp_path / "a.png", level, colour=4))
    for colour in (2, 4, 6):
        assert corner(read_image(deep_png(tmp_path / "a.png", 65535, colour=colour))) == (255,) * 3


def test_transparent_colours_are_white_whatever_the_mode(tmp_path):
    for image, key in (
        (Image.new("RGB", (6, 9), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (6, 9), 10), 10),
        (Image.new("1", (6, 9), 0), 0),
        (Image.fromarray(np.full((9, 6), 3000, np.uint16)), 3000),
    ):
        assert corner(read_image(saved(tmp_path, image, transparency=key))) == (255, 255, 255), image.mode
    deep = deep_png(tmp_path / "a.png", 20_000, transparent=struct.pack(">HHH", 20_000, 20_000, 20_000))
    assert corner(read_image(deep)) == (255, 255, 255)
    assert corner(read_image(saved(tmp_path, Image.new("RGB", (6, 9), (10, 20, 30)), transparency=(1, 2, 3)))) == (
        10,
        20,
        30,
    )


def test_every_mode_that_pil_knows_becomes_rgb_or_a_value_error():
    modes = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
    for mode in [*modes, "I;16", "I;16B", "I;16L", "I;16N"]:
        try:
            assert to_rgb(Image.new(mode, (3, 3))).mode == "RGB", mode
        except ValueError:
            assert mode == "La"


@pytest.mark.parametrize(
    "raised",
    [RuntimeError("x"), NotImplementedError("x"), AttributeError("x"), ZeroDivisionError("x"), KeyError("x"),
     AssertionError(), struct.error("x"), OverflowError("x"), Image.DecompressionBombError("x"), OSError("x")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("at", ["open", "load", "exif_transpose"])
def test_whatever_pil_raises_is_the_files_own_reason(raised, at, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise raised

    path = saved(tmp_path, PILLOWS)
    monkeypatch.setattr({"open": Image, "load": PngImageFile, "exif_transpose": ImageOps}[at], at, fail)
    for lenient in (False, True):
        if at == "exif_transpose":
            assert read_image(path, allow_truncated=lenient).size == (6, 9)
            continue
        with pytest.raises(UnreadableImage) as caught:
            read_image(path, allow_truncated=lenient)
        assert caught.value.lasting and "\n" not in caught.value.message


@pytest.mark.parametrize("raised", [MemoryError(), OSError(5, "Input/output error"), PermissionError(13, "no")])
def test_what_the_machine_did_is_worth_trying_again(raised, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise raised

    path = saved(tmp_path, PILLOWS)
    monkeypatch.setattr(PngImageFile, "load", fail)
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    assert not caught.value.lasting


def test_an_interrupt_is_no_fault_of_an_image(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    path = saved(tmp_path, PILLOWS)
    monkeypatch.setattr(PngImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_image(path)


def damaged(kind, path):
    """Files on which PIL's plugins raise what the others do not."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 16, 3), dtype=np.uint8))
    if kind == "text":
        bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * (2 << 20)))
        return deep_png(path, 65535, texts=bomb)
    content = io.BytesIO()
    noise.save(content, kind)
    raw = bytearray(content.getvalue())
    if kind == "DDS":
        raw[80:84] = bytes(4)
    else:
        raw[len(raw) // 3 :] = bytes(len(raw) - len(raw) // 3)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "BLP", "JPEG2000", "text"])
def test_damaged_files_of_rare_formats_are_refused_with_a_reason(kind, tmp_path):
    if kind in ("AVIF", "JPEG2000") and not features.check("avif" if kind == "AVIF" else "jpg_2000"):
        pytest.skip(f"this Pillow reads no {kind}")
    if kind == "BLP":
        path = tmp_path / "a.png"
        path.write_bytes(b"BLP2" + struct.pack("<iBBBBII", 1, 9, 9, 9, 9, 16, 16) + bytes(2000))
    else:
        path = damaged(kind, tmp_path / "a.png")
    with pytest.raises(UnreadableImage):
        read_image(path)


def test_damage_anywhere_gives_an_image_or_a_reason(tmp_path):
    """Bytes of small files of many formats, flipped one after another: never another exception."""
    draws = np.random.default_rng(0)
    noise = Image.fromarray(draws.integers(0, 256, (16, 12, 3), dtype=np.uint8))
    kinds = ["JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "DDS", "TGA", "ICO", "PCX", "SGI"]
    kinds += [
        kind for kind, name in (("AVIF", "avif"), ("WEBP", "webp"), ("JPEG2000", "jpg_2000")) if features.check(name)
    ]
    refused = 0
    for kind in kinds:
        content = io.BytesIO()
        noise.save(content, kind)
        for place in draws.integers(0, min(len(content.getvalue()), 400), 30):
            raw = bytearray(content.getvalue())
            raw[place] ^= 0xFF
            (tmp_path / "a.png").write_bytes(raw)
            try:
                assert read_image(tmp_path / "a.png").mode == "RGB"
            except UnreadableImage:
                refused += 1
    assert refused > 50


def test_a_file_that_is_too_large_to_be_an_image_is_refused_unread(tmp_path):
    path = tmp_path / "video.jpg"
    path.touch()
    os.truncate(path, 8 << 30)
    for check in (check_size, read_image):
        with pytest.raises(UnreadableImage, match=r"the file has 8\.6 GB, more than 1\.1 GB"):
            check(path)
    check_size(tmp_path / "gone.jpg")
    check_size(save_image(tmp_path / "b.png"))


def test_files_that_another_program_would_draw_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    Image.new("RGB", (9, 9)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImage, match="EPS files are programs"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="such files are Linux's")
def test_what_is_called_an_image_but_has_no_bytes_is_refused_unread(tmp_path):
    """A link to /proc/kmsg is a file by its mode, and reading it never ends."""
    (tmp_path / "a.png").symlink_to("/proc/self/environ")
    with pytest.raises(UnreadableImage, match="the file is empty"):
        read_image(tmp_path / "a.png")
