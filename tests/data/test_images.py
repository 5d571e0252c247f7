"""Images as they come: other modes, broken files, limits."""

import pickle

import numpy as np
import pytest
from PIL import Image
from support.sets import save_image

from tbps_cli.data.images import TRUNCATED, UnreadableImage, find_missing, read_image, require_images, to_rgb
from tbps_cli.errors import DataError


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


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
