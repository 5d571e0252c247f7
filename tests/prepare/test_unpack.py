"""Archives from strangers: what is refused, and that nothing is left behind."""

import io
import os
import random
import stat
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_cli.errors import DataError
from tbps_cli.prepare import unpack


def zip_of(path, members, mode=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (mode or 0) << 16
            archive.writestr(info, content)
    return path


def tar_of(path, members):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for info, content in members:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def refused(source, folder):
    folder.mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        unpack.unpack(source, folder)
    return caught.value.message


FILES = [("a/one.txt", b"one"), ("a/b/two.txt", b"two"), ("__MACOSX/a/._one.txt", b"x"), ("a/.DS_Store", b"x")]


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz", "folder"])
def test_every_kind_of_source_gives_the_same_tree(kind, tmp_path):
    source = tmp_path / kind
    if kind == "folder":
        for name, content in FILES:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
    else:
        (zip_of if kind == "a.zip" else tar_of)(source, FILES)
    done = []
    (tmp_path / "out").mkdir()
    unpack.unpack(source, tmp_path / "out", lambda *now: done.append(now))
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")
    }
    assert found == {"a/one.txt": b"one", "a/b/two.txt": b"two"}
    assert done[-1][0] == 6


@pytest.mark.parametrize("name", ["../out.txt", "/etc/cron", "a/../../x", "C:\\x", "a\\..\\..\\x", "..", "\\\\host\\x"])
def test_a_path_that_leads_out_is_refused(name, tmp_path):
    before = sorted(tmp_path.parent.rglob("x"))
    for source in (zip_of(tmp_path / "a.zip", [(name, b"x")]), tar_of(tmp_path / "a.tar", [(name, b"x")])):
        assert "points outside the folder" in refused(source, tmp_path / "out")
    assert sorted(tmp_path.parent.rglob("x")) == before and list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "info",
    [
        special("a", tarfile.SYMTYPE, "/etc/passwd"),
        special("a", tarfile.LNKTYPE, "b"),
        special("a", tarfile.CHRTYPE),
        special("a", tarfile.FIFOTYPE),
    ],
    ids=["symlink", "hardlink", "device", "pipe"],
)
def test_links_and_devices_in_a_tar_are_refused(info, tmp_path):
    assert "is a link or a device" in refused(tar_of(tmp_path / "a.tar", [(info, b"")]), tmp_path / "out")


def test_links_in_a_zip_and_in_a_folder_are_refused(tmp_path):
    link = zip_of(tmp_path / "a.zip", [("a", b"/etc/passwd")], mode=stat.S_IFLNK | 0o777)
    assert "is a link" in refused(link, tmp_path / "out")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to("/etc")
    assert "'link' is a link" in refused(tmp_path / "in", tmp_path / "out")


def test_a_bomb_is_refused_while_it_is_small(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_RIDE", 1000)
    for source in (
        zip_of(tmp_path / "a.zip", [("a", b"\0" * 3_000_000)]),
        tar_of(tmp_path / "a.tar.gz", [("a", b"\0" * 3_000_000)]),
    ):
        assert "refused as a decompression bomb" in refused(source, tmp_path / "out")
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 3_000_000


def test_a_member_that_lies_about_its_size_is_stopped(tmp_path, monkeypatch):
    source = zip_of(tmp_path / "a.zip", [("a", b"\0" * 3_000_000)])
    monkeypatch.setattr(unpack, "FREE_RIDE", 1000)
    honest = unpack._zip_members

    def lying(archive, source):
        for member in honest(archive, source):
            member.size = 1
            yield member

    monkeypatch.setattr(unpack, "_zip_members", lying)
    assert "refused as a decompression bomb" in refused(source, tmp_path / "out")


def test_a_disk_that_is_too_small_is_said_beforehand(tmp_path, monkeypatch):
    source = zip_of(tmp_path / "a.zip", [("a", os.urandom(5000))])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 3000})())
    assert "that are free" in refused(source, tmp_path / "out")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "MOST_ENTRIES", 2)
    source = zip_of(tmp_path / "a.zip", [(str(number), b"") for number in range(3)])
    assert "more than 2 files" in refused(source, tmp_path / "out")


def test_a_name_twice_is_refused(tmp_path):
    assert "contains 'a' twice" in refused(tar_of(tmp_path / "a.tar", [("a", b"1"), ("./a", b"2")]), tmp_path / "out")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_a_broken_archive_says_so(kind, tmp_path):
    source = (zip_of if kind == "a.zip" else tar_of)(tmp_path / kind, [("a", os.urandom(5000))])
    content = bytearray(source.read_bytes())
    content[600:2500] = bytes(1900)
    source.write_bytes(content)
    assert "damaged or truncated" in refused(source, tmp_path / "out")


def test_other_files_say_what_to_do(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    assert "RAR and 7z need their own programs" in refused(tmp_path / "a.rar", tmp_path / "out")


@given(st.text(max_size=30))
def test_no_name_ever_leads_out(name):
    from pathlib import Path

    try:
        target = unpack.safe_target(name, Path("a.zip"))
    except DataError:
        return
    assert target is None or (not target.startswith("/") and ".." not in target.split("/"))


# Archives that say one thing and hold another ---------------------------------------------------


def test_damage_anywhere_in_an_archive_is_one_line(tmp_path):
    """Every library of archives raises errors of its own, and names that are not UTF-8 are one of them."""
    draws = random.Random(0)
    sources = [
        zip_of(tmp_path / "a.zip", [("ü/one.txt", b"x" * 300), ("b/two.bin", os.urandom(90))]),
        tar_of(tmp_path / "a.tar", [("ü/one.txt", b"x" * 300), ("b/" + "n" * 150, os.urandom(90))]),
        tar_of(tmp_path / "a.tar.gz", [("ü/one.txt", b"x" * 300)]),
    ]
    refusals = 0
    for source in sources:
        whole = source.read_bytes()
        for number in range(150):
            broken = bytearray(whole)
            for _ in range(draws.randint(1, 3)):
                broken[draws.randrange(min(len(broken), 2500))] = draws.choice([0, 255, draws.randrange(256)])
            source.write_bytes(broken)
            out = tmp_path / f"out-{source.name}-{number}"
            out.mkdir()
            try:
                unpack.unpack(source, out)
            except DataError as error:
                refusals += 1
                assert "\n" not in error.message
    assert refusals > 100
    assert {entry.name.split("-")[0] for entry in tmp_path.iterdir()} == {"a.zip", "a.tar", "a.tar.gz", "out"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["extended", "long name"])
def test_a_header_that_is_a_bomb_is_refused_before_it_is_in_memory(kind, tmp_path, monkeypatch):
    """A gigabyte of digits packs into a megabyte, and tarfile reads such headers whole."""
    monkeypatch.setattr(unpack, "LONGEST_HEADER", 10_000)
    header = special("x", kind)
    source = tar_of(tmp_path / "a.tar.gz", [("a.txt", b"a"), (header, b"1" * 20_000), ("b.txt", b"b")])
    assert "a header of 20,000 bytes" in refused(source, tmp_path / "out")
    source = tar_of(tmp_path / "first", [(header, b"1" * 20_000), ("b.txt", b"b")])
    assert "neither a folder nor a zip or tar archive" in refused(source, tmp_path / "out2")


def test_a_damaged_header_in_the_middle_of_a_tar_is_not_its_end(tmp_path):
    source = tar_of(tmp_path / "a.tar", [("a", b"1"), ("b", b"2"), ("c", b"3")])
    whole = bytearray(source.read_bytes())
    whole[1024 + 5] ^= 1
    source.write_bytes(whole)
    assert "a header is damaged" in refused(source, tmp_path / "out")


def test_a_path_that_a_tar_overrides_in_its_extended_header_is_refused(tmp_path):
    info = tarfile.TarInfo("harmless.txt")
    info.pax_headers = {"path": "../../out.txt"}
    source = tmp_path / "a.tar"
    with tarfile.open(source, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b""))
    assert "points outside the folder" in refused(source, tmp_path / "out")
    assert not (tmp_path.parent / "out.txt").exists()


@pytest.mark.parametrize("trick", ["name", "encrypted", "offset"])
def test_a_zip_whose_directory_does_not_fit_its_records_is_refused(trick, tmp_path):
    source = zip_of(tmp_path / "a.zip", [("one.txt", b"one"), ("two.txt", b"two")])
    whole = bytearray(source.read_bytes())
    local, central = whole.index(b"PK\x03\x04"), whole.index(b"PK\x01\x02")
    if trick == "name":
        whole[local + 30 : local + 37] = b"../evil"
    elif trick == "encrypted":
        whole[central + 8] |= 1
    else:
        whole[central + 42 : central + 46] = struct.pack("<I", 2**31)
    source.write_bytes(whole)
    assert refused(source, tmp_path / "out")
    assert not list(tmp_path.glob("evil*")) and not list(tmp_path.parent.glob("evil*"))
