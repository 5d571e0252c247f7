"""Files from somebody who means harm: nothing runs, nothing is written outside, nothing eats the memory or the disk."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from support.bypasses import PUBLISHED, g, spelled

from campaigns.children import tbps
from campaigns.trials import Result, Trial
from campaigns.workshop import Workshop, differing, tree
from tbps_cli.errors import WeightsError
from tbps_cli.weights.weights_file import read_tensors

MEMORY = 1_500_000_000
"""Bytes that a run may have in memory; half of it is Python and PyTorch."""
DISK = 300_000_000
"""Bytes that a refused archive may leave behind: none, but it may take so many on the way."""
File = tuple[str, Callable[[], bytes]]
"""A name, and what makes its content: some are costly."""


def trials(place: Workshop, short: bool) -> list[Trial]:
    found = []
    for group, make, run in (
        ("archives", archives, _archive),
        ("pickles and checkpoints", checkpoints, _checkpoint),
        ("images", images, _image),
    ):
        names = [name for name, _ in make()]
        for number in range(5 if short else 0, len(names), 12 if short else 1):
            work: Callable[[random.Random], Result] = partial(_one, place, make, number, run)
            found.append(Trial("hostile", group, number, work))
    found.append(Trial("hostile", "published bypasses of scanners", 0, partial(_bypasses, place)))
    return found


def _one(
    place: Workshop,
    make: Callable[[], Iterator[File]],
    number: int,
    run: Callable[[Workshop, Path, Path], str | None],
    draw: random.Random,
) -> Result:
    """One file in a folder of its own, beside which nothing may appear or change."""
    result = Result()
    with place.bench() as bench:
        (bench / "canary").write_text("alive")
        here = bench / "here"
        here.mkdir()
        name, content = next(file for index, file in enumerate(make()) if index == number)
        (here / name).write_bytes(content().replace(b"{marker}", os.fsencode(bench / "marker")))
        fault = run(place, here, here / name)
        outside = differing({"canary": tree(bench)["canary"]}, tree(bench, "here"))
        result.add(fault or (f"outside of the folder: {outside}" if outside else None))
        if result.faults:
            result.faults = [f"{name}: {found}" for found in result.faults]
    return result


# Archives -------------------------------------------------------------------------------------


def _archive(place: Workshop, here: Path, path: Path) -> str | None:
    """Refused, or unpacked without harm; a data set it is not, so that something is always said."""
    words = ["prepare-data", "cuhk-pedes", "--source", path, "--data-root", here / "data"]
    ended = tbps(words, here)
    left = sum(file.lstat().st_size for file in (here / "data").rglob("*")) if (here / "data").exists() else 0
    links = [file for file in here.rglob("*") if file.is_symlink()]
    return (
        ended.fault(must_fail=True)
        or (f"{ended.memory:,} bytes of memory" if ended.memory > MEMORY else None)
        or (f"{left:,} bytes are left" if left else None)
        or (f"there is a link: {links[0].name}" if links else None)
    )


def _zip(*members: tuple[str, bytes], mode: int = 0, **more: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(info, content)
    return file.getvalue()


def _tar(*members: tuple[tarfile.TarInfo | str, bytes], pax: dict[str, str] | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax or {}) as archive:
        for given, content in members:
            info = tarfile.TarInfo(given) if isinstance(given, str) else given
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _special(name: str, kind: bytes, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def _zip64_bomb(declared: int) -> bytes:
    """One member of 600 MB in 600 kB, whose zip64 field says something else."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(600)) + packer.flush()
    name, extra = b"reid_raw.json", struct.pack("<HHQQ", 1, 16, declared, len(data))
    local = struct.pack("<4s5HLLLHH", b"PK\x03\x04", 45, 0, 8, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    central = struct.pack(
        *("<4s6H3L5H2L", b"PK\x01\x02", 45, 45, 0, 8, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra)),
        *(0, 0, 0, 0, 0),
    )
    body = local + name + extra + data
    directory = central + name + extra
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), len(body), 0)
    return body + directory + end


def _overlapping() -> bytes:
    """Many entries of the directory lead to one record, as in the bombs without nesting."""
    whole = bytearray(_zip(*((f"{n}.txt", b"\0" * 1_000_000) for n in range(200))))
    first, place = 0, 0
    while (place := whole.find(b"PK\x01\x02", place)) >= 0:
        whole[place + 42 : place + 46] = struct.pack("<I", first)
        place += 4
    return bytes(whole)


def _long_header(kind: bytes) -> bytes:
    """A header of 1 GB in front of a member: readers take it into memory whole."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 1 << 30
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=9) as packed:
        packed.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(1 << 10):
            packed.write(b"1" * (1 << 20))
        packed.write(_tar(("a.txt", b"a")))
    return file.getvalue()


def _nested(depth: int) -> bytes:
    content = bytes(1000)
    for _ in range(depth):
        content = _zip(("in.zip", content))
    return content


def archives() -> Iterator[File]:
    """Each is no data set, so that even a harmless one is refused in the end."""
    for number, name in enumerate(
        ("../out", "../../out", "/tmp/out", "a/../../out", "..\\..\\out", "C:\\out", "\\\\h\\s\\o")
    ):
        yield f"zip-path{number}.zip", partial(_zip, (name, b"x"))
        yield f"tar-path{number}.tar", partial(_tar, (name, b"x"))
    yield "zip-link.zip", lambda: _zip(("link", b"/etc/passwd"), mode=stat.S_IFLNK | 0o777)
    yield "zip-link-then-file.zip", lambda: _zip(("d", b".."), ("d/out", b"x"), mode=stat.S_IFLNK | 0o777)
    yield "zip-device.zip", lambda: _zip(("d", b""), mode=stat.S_IFCHR | 0o666)
    yield "zip-case.zip", lambda: _zip(("a/R.png", b"1"), ("a/r.png", b"2"))
    yield "zip-unicode.zip", lambda: _zip(("a/\u00e9.png", b"1"), ("a/e\u0301.png", b"2"))
    yield "zip-twice.zip", lambda: _zip(("a", b"1"), ("a", b"2"))
    yield "zip-file-as-folder.zip", lambda: _zip(("a", b"1"), ("a/b", b"2"))
    yield "zip-nul.zip", lambda: _zip(("a", b"1")).replace(b"\x01\x00\x00\x00a", b"\x01\x00\x00\x00\x00")
    yield "zip-ratio.zip", lambda: _zip(*((f"{n}.txt", bytes(30_000_000)) for n in range(12)))
    yield "zip64-honest.zip", lambda: _zip64_bomb(600 << 20)
    yield "zip64-says-3.zip", lambda: _zip64_bomb(3)
    yield "zip64-says-everything.zip", lambda: _zip64_bomb(2**63)
    yield "zip-overlapping.zip", lambda: _overlapping()
    yield "zip-nested.zip", lambda: _nested(200)
    yield "zip-names.zip", lambda: _zip(*((f"{n:06d}", b"") for n in range(60_000)))
    yield "zip-long-name.zip", lambda: _zip(("a" * 5000, b"x"))
    yield "zip-deep.zip", lambda: _zip(("a/" * 2000 + "x", b"x"))
    yield "tar-link.tar", lambda: _tar((_special("a", tarfile.SYMTYPE, "/etc/passwd"), b""))
    yield "tar-link-then-file.tar", lambda: _tar((_special("d", tarfile.SYMTYPE, ".."), b""), ("d/out", b"x"))
    yield "tar-hard-link.tar", lambda: _tar((_special("a", tarfile.LNKTYPE, "../canary"), b""))
    yield "tar-hard-link-write.tar", lambda: _tar((_special("a", tarfile.LNKTYPE, "../../canary"), b""), ("a", b"dead"))
    yield "tar-device.tar", lambda: _tar((_special("a", tarfile.BLKTYPE), b""))
    yield "tar-pipe.tar", lambda: _tar((_special("a", tarfile.FIFOTYPE), b""))
    yield "tar-setuid.tar", lambda: _tar((_special("a", tarfile.REGTYPE, mode=0o6777), b"x"))
    yield "tar-unknown-type.tar", lambda: _tar((_special("a", b"Z"), b"x"))
    # CVE-2024-12718, CVE-2025-4138, 4330 and 4517: links whose path, made real, is longer than systems allow
    step = "d" * 247
    chain = [("/".join([step] * n), f"l{n}") for n in range(1, 16)]
    members: list[tuple[tarfile.TarInfo | str, bytes]] = [(_special(name, tarfile.DIRTYPE), b"") for name, _ in chain]
    members += [(_special(f"{name}/{link}", tarfile.SYMTYPE, step), b"") for name, link in chain]
    members += [(_special("escape", tarfile.SYMTYPE, "l1/" * 16 + "../" * 18), b""), ("escape/out", b"x")]
    yield "tar-realpath.tar", lambda: _tar(*members)
    yield "tar-pax-path.tar", lambda: _tar(("a", b"x"), pax={"path": "../../out"})
    yield "tar-pax-link.tar", lambda: _tar(("a", b"x"), pax={"linkpath": "/etc/passwd"})
    yield "tar-pax-size.tar", lambda: _tar(("a", b"x"), pax={"size": "99999999999999"})
    yield (
        "tar-pax-sparse.tar",
        lambda: _tar(("a", b"x"), pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": "9" * 14}),
    )
    yield "tar-gnu-sparse.tar", lambda: _tar((_special("a", tarfile.GNUTYPE_SPARSE), b"x"))
    yield "tar-negative-size.tar", lambda: _tar(("a", b"x")).replace(b"00000000001\0", b"-0000000001\0", 1)
    yield "tar-header-pax.tar.gz", lambda: _long_header(tarfile.XHDTYPE)
    yield "tar-header-name.tar.gz", lambda: _long_header(tarfile.GNUTYPE_LONGNAME)
    yield "tar-ratio.tar.bz2", lambda: bz2.compress(_tar(("a", bytes(400_000_000))))
    yield "tar-ratio.tar.xz", lambda: lzma.compress(_tar(("a", bytes(400_000_000))), preset=0)
    yield "tar-case.tar", lambda: _tar(("a/R.png", b"1"), ("a/r.png", b"2"))
    yield "gz-of-nothing.tar.gz", lambda: gzip.compress(b"")


# Pickles and checkpoints ------------------------------------------------------------------------


def _checkpoint(place: Workshop, here: Path, path: Path) -> str | None:
    ended = tbps(["convert", path, "--out", here / "out"], here)
    fault = ended.fault(must_fail=True)
    return fault or (f"{ended.memory:,} bytes of memory" if ended.memory > MEMORY else None)


def _torch_zip(program: bytes, *records: tuple[str, bytes], stored: bool = True) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
        for name, content in records:
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def checkpoints() -> Iterator[File]:
    shell = "touch {marker}"
    call = f"(S'{shell}'\ntR.".encode()
    system = g("os", "system") + call
    yield "system.pth", lambda: system
    yield "system-protocol4.pth", lambda: b"\x80\x04" + system
    yield "system-zip.pth", lambda: _torch_zip(system)
    yield "system-in-byteorder.pth", lambda: _torch_zip(b"\x80\x02}.", ("byteorder", system), ("version", system))
    yield "system-second-pickle.pth", lambda: _torch_zip(b"\x80\x02}." + system)
    yield (
        "system-constants.pt",
        lambda: _torch_zip(b"\x80\x02}.", ("constants.pkl", system), ("code/x.py", b"import os")),
    )
    yield (
        "torchscript.pt",
        lambda: _torch_zip(system, ("constants.pkl", b"\x80\x02)."), ("code/__torch__.py", b"x = 1")),
    )
    yield "compressed.pth", lambda: _torch_zip(b"\x80\x02}." + bytes(400_000_000), stored=False)
    yield (
        "flags.pth",
        lambda: _torch_zip(system).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        ),
    )
    yield "checksum.pth", lambda: _torch_zip(system).replace(struct.pack("<I", zlib.crc32(system)), b"\0\0\0\0")
    yield "name.pth", lambda: _torch_zip(system).replace(b"archive/data.pkl", b"archive/data.pkx", 1)
    yield "trailing.pth", lambda: _torch_zip(b"\x80\x02}.") + _torch_zip(system)
    yield "leading.pth", lambda: b"x" * 100 + _torch_zip(system)
    yield "seven-zip.bin", lambda: b"7z\xbc\xaf\x27\x1c" + system
    yield "renamed.safetensors", lambda: system
    yield "header.safetensors", lambda: struct.pack("<Q", 1 << 62) + b"{}"
    yield (
        "overlap.safetensors",
        lambda: _safetensors(
            '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
        ),
    )
    yield (
        "huge.safetensors",
        lambda: _safetensors('{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}'),
    )
    yield "deep.safetensors", lambda: _safetensors("[" * 90_000)
    yield "tar.pth", lambda: _tar(("sys_info", system), ("pickle", system), ("tensors", system), ("storages", system))
    yield "laughs.pth", lambda: b"(lp0\n" + b"".join(f"0(lg{i}\nag{i}\nap{i + 1}\n".encode() for i in range(60)) + b"."
    yield "deep.pth", lambda: b"\x80\x02" + b"(l" * 200_000 + b"a" * 199_999 + b"."
    yield "long-number.pth", lambda: _torch_zip(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"1.")
    yield "frame.pth", lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"}."
    yield "bytes.pth", lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x."
    yield "memo.pth", lambda: b"\x80\x04}r" + struct.pack("<I", 2**32 - 1) + b"."
    yield "storage.pth", lambda: _torch_zip(_tensor_of(2**50), ("data/0", bytes(16)))
    yield (
        "strides.pth",
        lambda: _torch_zip(_tensor_of(4, "(I1000000000\nI1000000000\nt(I0\nI0\nt"), ("data/0", bytes(16))),
    )


def _tensor_of(count: int, shape: str = "(I2\nI2\nt(I2\nI1\nt") -> bytes:
    storage = b"((S'storage'\n" + g("torch", "FloatStorage") + f"S'0'\nS'cpu'\nI{count}\ntQI0\n{shape}I00\n".encode()
    return g("torch._utils", "_rebuild_tensor_v2") + storage + g("collections", "OrderedDict") + b")RtR."


def _safetensors(head: str) -> bytes:
    return struct.pack("<Q", len(head)) + head.encode() + bytes(16)


def _bypasses(place: Workshop, draw: random.Random) -> Result:
    """Functions that scanners of pickles were shown to miss, each spelled in several ways."""
    result = Result()
    with place.bench() as bench:
        for named in PUBLISHED:
            module, name = named.split()
            for kind, program in spelled(module, name, f"touch {bench / 'marker'}").items():
                for wrapped in (_torch_zip(program), b"\x80\x02" + program):
                    (bench / "best.pth").write_bytes(wrapped)
                    result.add(_refused(bench / "best.pth", f"{named} as {kind}"))
        (bench / "model.pth").write_bytes(pickle.dumps(torch.nn.Linear))
        result.add(_refused(bench / "model.pth", "a class"))
        if (bench / "marker").exists():
            result.faults.append("one of them was run")
    return result


def _refused(path: Path, what: str) -> str | None:
    try:
        read_tensors(path)
    except WeightsError as error:
        return f"{what}: a message of several lines" if "\n" in error.message else None
    return f"{what}: read as if it were data"


# Images ---------------------------------------------------------------------------------------


def _image(place: Workshop, here: Path, path: Path) -> str | None:
    """Left out and named, or read; the good images beside it are indexed in any case."""
    folder = here / "photos"
    folder.mkdir()
    path.rename(folder / path.name)
    for number in range(2):
        Image.new("RGB", (20, 40), ("red", "blue")[number]).save(folder / f"good{number}.png")
    ended = tbps(["index", folder, "--ckpt", place.run, "--index", here / "i.h5", "--json"], here)
    if fault := ended.fault():
        return fault
    if ended.memory > MEMORY:
        return f"{ended.memory:,} bytes of memory"
    size, left_out = (json.loads(ended.out)[key] for key in ("size", "left_out_in_all"))
    return None if size + left_out == 3 and size >= 2 else f"{size} images are indexed, {left_out} left out"


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


def _saved(form: str, image: Image.Image, **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)
    return file.getvalue()


def images() -> Iterator[File]:
    small = Image.new("RGB", (20, 40), "green")
    yield "bomb.png", lambda: _png(60_000, 60_000, (b"IDAT", zlib.compress(bytes(10_000_000), 9)))
    yield "rows.png", lambda: _png(9_000, 9_000, (b"IDAT", zlib.compress(b"\0", 9)))
    yield (
        "text.png",
        lambda: _png(
            1, 1, (b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 9)), (b"IDAT", zlib.compress(b"\0" * 4))
        ),
    )
    yield (
        "itext.png",
        lambda: _png(
            1, 1, (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(200_000_000), 9)), (b"IDAT", zlib.compress(b"\0" * 4))
        ),
    )
    yield (
        "profile.png",
        lambda: _png(
            1, 1, (b"iCCP", b"k\0\0" + zlib.compress(bytes(200_000_000), 9)), (b"IDAT", zlib.compress(b"\0" * 4))
        ),
    )
    yield "zero.png", lambda: _png(0, 0, (b"IDAT", b""))
    yield "wide.png", lambda: _png(2**31 - 1, 1, (b"IDAT", b""))
    yield "eps.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {marker}) (w) file\n"
    yield "svg.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield "frames.gif", lambda: _saved("GIF", small, save_all=True, append_images=[small.copy() for _ in range(500)])
    whole = bytearray(_saved("GIF", small))
    whole[6:10] = struct.pack("<HH", 65535, 65535)
    yield "screen.gif", lambda: bytes(whole)
    tiff = bytearray(_saved("TIFF", small))
    first = struct.unpack("<I", tiff[4:8])[0]
    count = struct.unpack("<H", tiff[first : first + 2])[0]
    tiff[first + 2 + 12 * count :][:4] = b""
    tiff[first + 2 + 12 * count : first + 6 + 12 * count] = struct.pack("<I", first)
    yield "loop.tiff", lambda: bytes(tiff)
    yield "strips.tiff", lambda: bytes(tiff).replace(struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2**31))
    jpeg = _saved("JPEG", small)
    yield (
        "exif.jpg",
        lambda: jpeg[:2] + b"\xff\xe1\xff\xffExif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 32_000 + jpeg[2:],
    )
    yield "size.jpg", lambda: jpeg.replace(struct.pack(">HH", 40, 20), struct.pack(">HH", 65500, 65500), 1)
    yield (
        "bitmap.bmp",
        lambda: _saved("BMP", small)[:18] + struct.pack("<ii", 2**30, -(2**30)) + _saved("BMP", small)[26:],
    )
    yield "ico.png", lambda: b"\0\0\1\0\xff\xff" + bytes(2000)
    yield "program.png", lambda: b"#!/bin/sh\ntouch {marker}\n"
    yield "pickle.png", lambda: g("os", "system") + b"(S'touch {marker}'\ntR."
    yield "webp.webp", lambda: _saved("WEBP", small)[:26] + b"\xff\xff\xff\xff" + _saved("WEBP", small)[30:]
    yield (
        "avif.avif",
        lambda: _saved("AVIF", small).replace(struct.pack(">II", 20, 40), struct.pack(">II", 65535, 65535)),
    )
    yield "dds.png", lambda: b"DDS " + struct.pack("<7I", 124, 0x1007, 2**30, 2**30, 0, 0, 0) + bytes(100)
