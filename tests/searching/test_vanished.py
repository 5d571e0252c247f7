"""Images that vanish from a large gallery cost what they are, and no use of the index finds them."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.encoder import FakeEncoder
from typer.testing import CliRunner

from tbps_cli.cli.app import app
from tbps_cli.databases.local import LocalDatabase
from tbps_cli.errors import DataError
from tbps_cli.features import row_sink, store
from tbps_cli.features.parts import codes_folder, part_paths
from tbps_cli.features.store import FeatureFile
from tbps_cli.searching import gallery as galleries
from tbps_cli.searching.forget import forget
from tbps_cli.searching.gallery import Gallery
from tbps_cli.searching.index import index
from tbps_cli.searching.index_file import open_index
from tbps_cli.searching.moving import move
from tbps_cli.searching.search import search
from tbps_cli.serving.served import ServedGallery


def paint(path: Path, number: int) -> None:
    """An image that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (8, 4, 3), np.uint8)
    Image.fromarray(np.kron(pixels, np.ones((4, 4, 1), np.uint8))).save(path)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 40 images, whose index counts as a large one."""
    monkeypatch.setattr(store, "FEW", 8)
    for number in range(40):
        paint(tmp_path / "many" / f"cam{number % 4}" / f"{number:03}.png", number)
    return tmp_path / "many"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "many.h5"


def everything(place: Path) -> bytes:
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file() and path.suffix != ".png")


def test_what_vanished_is_found_nowhere_and_the_file_is_not_written_again(model, many: Path, file: Path) -> None:
    index(model, many, file)
    inode = file.stat().st_ino
    gone = many / "cam1" / "001.png"
    query = gone.read_bytes()
    gone.unlink()
    shown = index(model, many, file)
    assert shown.update.removed == 1 and model.seen == 40
    assert file.stat().st_ino == inode and len(part_paths(file)) == 1
    kept = gone.with_name("copy.jpg")
    kept.write_bytes(query)
    for gallery in (shown, open_index(model, file), index(model, many, file, refresh=False)):
        assert len(gallery) == 39 and "cam1/001.png" not in gallery.rows.paths
        assert all("001.png" not in hit.path for hit in search(model, gallery, image=kept, top=39))
        assert gallery.count(_where("camera == 'cam1'")) == gallery.count(_where("path like 'cam1/*'")) == 9
        assert not len(gallery.places_of(_content(query)))
    database = LocalDatabase.open(file)
    assert database.count() == 39 and database.values("camera") == ["cam0", "cam1", "cam2", "cam3"]
    assert len(database.page(None, 100)[0]) == 39
    moved = move(file, file.with_name("other.h5"))
    assert (moved.size, moved.in_target) == (39, 39)


def _where(text: str):
    from tbps_cli.filtering.parse import parse

    return parse(text).tree


def _content(content: bytes) -> str:
    from tbps_cli.features.rows import content_hash

    return content_hash(content)


def test_the_command_line_sees_nothing_of_it_and_lists_the_index(tmp_path: Path, model, many: Path) -> None:
    index(model, many)
    (many / "cam1" / "001.png").unlink()
    index(model, many)
    listed = json.loads(CliRunner().invoke(app, ["cache", "--json"]).stdout)["entries"]
    about = {Path(entry["path"]).suffix: entry["images_of"] for entry in listed if ".h5" in entry["path"]}
    assert about[".h5"] == about[".parts"] == str(many)


def test_a_server_shows_it_no_longer(model, many: Path, file: Path) -> None:
    index(model, many, file)
    served = ServedGallery(1, "many", model, file, [file])
    served._renew()
    state = served._state()
    assert served.view is not None and len(served.view.gallery) == 40
    (many / "cam1" / "001.png").unlink()
    index(model, many, file)
    assert served._state() != state
    served._renew()
    assert len(served.view.gallery) == 39


def test_what_vanished_and_is_forgotten_leaves_the_disk(model, many: Path, file: Path) -> None:
    index(model, many, file)
    content = _content((many / "cam1" / "001.png").read_bytes())
    (many / "cam1" / "001.png").unlink()
    index(model, many, file)
    assert b"cam1/001.png" in file.read_bytes()
    report = forget([str(many / "cam1" / "001.png")], file)
    assert report.images == 0
    assert b"cam1/001.png" not in file.read_bytes() and content.encode() not in everything(file.parent / "cache" / "x")
    left = b"".join(path.read_bytes() for path in [file, *part_paths(file)])
    assert content.encode() not in left and len(open_index(model, file)) == 39
    paint(many / "cam3" / "again.png", 1)
    assert len(index(model, many, file)) == 39, "its copy stays out"
    with pytest.raises(DataError, match="no such file"):
        forget([str(many / "cam1" / "002.png")], file)


def test_an_older_content_of_a_forgotten_path_is_not_forgotten_with_it(model, many: Path, file: Path) -> None:
    """A camera writes its last frame under one name, and copies of earlier ones are kept."""
    index(model, many, file)
    shutil.copy(many / "cam1" / "001.png", many / "cam1" / "kept.png")
    paint(many / "cam1" / "001.png", 500)
    index(model, many, file)
    forget([str(many / "cam1" / "001.png")], file)
    shown = index(model, many, file)
    assert "cam1/kept.png" in shown.rows.paths and "cam1/001.png" not in shown.rows.paths


def test_what_vanished_and_is_too_old_leaves_the_disk(model, many: Path, file: Path) -> None:
    old = many / "cam1" / "001.png"
    long_ago = time.time() - 40 * 86400
    os.utime(old, (long_ago, long_ago))
    index(model, many, file)
    old.unlink()
    index(model, many, file)
    assert b"cam1/001.png" in file.read_bytes()
    index(model, many, file, expire=30 * 86400.0)
    assert b"cam1/001.png" not in file.read_bytes()


def test_codes_follow_and_only_what_changed_is_coded(model, many: Path, file: Path, monkeypatch, lines) -> None:
    monkeypatch.setattr(galleries, "CODED", 10)
    monkeypatch.setattr("tbps_cli.retrieval.code_files.MANY", 8)
    index(model, many, file)
    names = {path.name for path in codes_folder(file).iterdir()}
    (many / "cam1" / "001.png").unlink()
    paint(many / "cam2" / "002.png", 700)
    lines()
    shown = index(model, many, file)
    assert "2 images coded" in lines()
    assert names < {path.name for path in codes_folder(file).iterdir()}
    for gallery in (shown, open_index(model, file)):
        assert gallery.cascade is not None and len(gallery.cascade) == 39
        wanted = gallery.cascade.frame.encode(gallery.vector_GE).astype(np.int16)
        assert np.abs(wanted - np.stack(gallery.cascade.groups)).max() <= 1


# A long walk --------------------------------------------------------------------------------------


class Walk:
    """A folder that changes at random, its index, and a dictionary of what that must hold."""

    def __init__(self, place: Path, seed: int) -> None:
        self.draw, self.folder, self.file = random.Random(seed), place / "walk", place / "walk.h5"
        self.images: dict[str, int] = {}
        """Name -> the number it was painted with, of what the index must show."""
        self.out: set[str] = set()
        """Names of what was forgotten."""
        self.painted = 0
        self.model = FakeEncoder()
        self.did: list[str] = []
        self.folder.mkdir()
        for _ in range(30):
            self.add()

    def add(self) -> None:
        name = f"cam{self.draw.randrange(4)}/{self.draw.randrange(1000):03}.png"
        if name not in self.out:
            self.painted += 1
            paint(self.folder / name, self.painted)
            self.images[name] = self.painted

    def change(self) -> None:
        for name in self.some():
            self.painted += 1
            paint(self.folder / name, self.painted)
            self.images[name] = self.painted

    def vanish(self) -> None:
        for name in self.some():
            (self.folder / name).unlink()
            del self.images[name]

    def rename(self) -> None:
        for name in self.some():
            other = f"cam9/{name[:4]}-{name[5:]}"
            if other not in self.images and other not in self.out:
                (self.folder / "cam9").mkdir(exist_ok=True)
                (self.folder / name).rename(self.folder / other)
                self.images[other] = self.images.pop(name)

    def come_back(self) -> None:
        """Vanished for one look, and there again as it was."""
        for name in self.some():
            away = self.folder.with_name("away.png")
            (self.folder / name).rename(away)
            index(self.model, self.folder, self.file)
            away.rename(self.folder / name)

    def forget(self) -> None:
        for name in self.some()[:1]:
            if self.draw.random() < 0.5:
                (self.folder / name).unlink()
                self.look()  # it vanishes first
            try:
                forget([str(self.folder / name)], self.file)
                self.out.add(name)
            except DataError:  # it vanished, and its row has left the disk already, or never was there
                assert not (self.folder / name).exists()
            left = b"".join(path.read_bytes() for path in [self.file, *part_paths(self.file)])
            assert name.encode() not in left
            self.images.pop(name, None)

    def expire(self) -> None:
        """An old image comes, and goes by the period."""
        for name in self.some()[:1]:
            long_ago = time.time() - 1000 * 86400
            os.utime(self.folder / name, (long_ago, long_ago))
            index(self.model, self.folder, self.file, expire=900 * 86400.0)
            left = b"".join(path.read_bytes() for path in [self.file, *part_paths(self.file)])
            assert name.encode() not in left
            self.out.add(name)
            del self.images[name]

    def look(self) -> Gallery:
        for name in [name for name in self.images if not (self.folder / name).exists()]:
            del self.images[name]
        return index(self.model, self.folder, self.file, codes=self.draw.random() < 0.8)

    def merge(self) -> None:
        there = FeatureFile.open(self.file, self.model.fingerprint)
        how = self.draw.randrange(3)
        if how == 0:
            there.compact()
        elif how == 1:
            there._join_parts()
        else:
            there.merge_meanwhile(1000)
            there.settle(share=1000)

    def some(self) -> list[str]:
        return self.draw.sample(sorted(self.images), min(len(self.images) - 5, self.draw.randint(1, 4)))

    def step(self) -> None:
        steps = self.add, self.add, self.change, self.vanish, self.rename, self.come_back, self.forget, self.expire
        step = self.draw.choice((*steps, self.merge, self.merge))
        self.did.append(step.__name__)
        if step == self.merge and not self.file.exists():
            return
        step()
        if self.draw.random() < 0.7:
            self.check(self.look())
            self.check(open_index(self.model, self.file))

    def check(self, gallery: Gallery) -> None:
        assert set(gallery.rows.paths) == set(self.images), self.did[-5:]
        assert len(gallery) == len(self.images) == len(gallery.vector_GE)

    def compare(self) -> None:
        """With an index that is made afresh."""
        shown, file = self.look(), self.file.with_name(f"fresh{len(self.did)}.h5")
        for note in self.file.parent.glob(f"{self.file.name}.*.json*"):
            shutil.copy(note, file.with_name(note.name.replace(self.file.name, file.name)))
        fresh = index(FakeEncoder(), self.folder, file)
        self.check(fresh)
        self.check(shown)
        for number in self.draw.sample(sorted(self.images.values()), 3):
            paint(self.folder.with_name("query.png"), number)
            for where in (None, "camera == 'cam1'"):
                found = [
                    [(hit.path, hit.score) for hit in search(self.model, one, image=self.folder.with_name("query.png"),
                                                            top=1000, where=where)]
                    for one in (shown, fresh)
                ]  # fmt: skip
                assert sorted(found[0]) == sorted(found[1]), self.did[-10:]
                assert [score for _, score in found[0]] == [score for _, score in found[1]]


def walked(place: Path, monkeypatch: pytest.MonkeyPatch, seed: int, steps: int, every: int) -> None:
    monkeypatch.setattr(store, "FEW", 4)
    monkeypatch.setattr(store, "PARTS", 6)
    monkeypatch.setattr(store, "INDEXED", 8)
    monkeypatch.setattr(row_sink, "FLUSH_ROWS", 3)
    monkeypatch.setattr(galleries, "CODED", 20)
    monkeypatch.setattr(galleries, "FEW", 4)
    monkeypatch.setattr("tbps_cli.retrieval.code_files.MANY", 4)
    walk = Walk(place, seed)
    walk.check(walk.look())
    for number in range(1, steps + 1):
        walk.step()
        if number % every == 0:
            walk.compare()


def test_whatever_becomes_of_a_folder_its_index_is_that_of_a_fresh_look(tmp_path: Path, monkeypatch) -> None:
    walked(tmp_path, monkeypatch, seed=1, steps=20, every=10)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_whatever_becomes_of_a_folder_for_long_its_index_is_that_of_a_fresh_look(tmp_path, monkeypatch, seed) -> None:
    walked(tmp_path, monkeypatch, seed, steps=200, every=20)
