"""Inputs that are wrong: each ends in one line and a status that is not 0, within seconds, and nothing is lost."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from campaigns.children import tbps
from campaigns.trials import Result, Trial
from campaigns.workshop import Workshop, differing, tree

BATCH = 10


class Bad(NamedTuple):
    """One wrong input. `words` may name {place} and {here}; `files` are written into {here} first."""

    group: str
    words: list[str]
    files: dict[str, bytes]
    stdin: bytes = b""


def trials(place: Workshop, short: bool) -> list[Trial]:
    """Batches of inputs, each in the folder of its own; the short form takes a few from everywhere."""
    found: list[Trial] = []
    by_group: dict[str, list[Bad]] = {}
    for bad in everything():
        by_group.setdefault(bad.group, []).append(bad)
    for group, all_of in by_group.items():
        chosen = all_of[:: max(1, len(all_of) // 2)] if short else all_of
        for number, start in enumerate(range(0, len(chosen), BATCH)):
            run: Callable[[random.Random], Result] = partial(batch, place, chosen[start : start + BATCH])
            found.append(Trial("inputs", group, number, run))
    return found


def batch(place: Workshop, inputs: list[Bad], draw: random.Random) -> Result:
    result, before = Result(), {name: tree(getattr(place, name)) for name in ("data", "run", "official", "photos")}
    for bad in inputs:
        with place.bench() as here:
            for name, content in bad.files.items():
                (here / name).parent.mkdir(parents=True, exist_ok=True)
                (here / name).write_bytes(content)
            shutil.copytree(place.run, here / "run")
            kept = tree(here)
            words = [word.replace("{place}", str(place.folder)).replace("{here}", str(here)) for word in bad.words]
            ended = tbps(words, here, stdin=bad.stdin)
            fault = ended.fault(must_fail=True)
            lost = kept.keys() - tree(here).keys() or {
                name for name, mark in tree(here).items() if name in kept and kept[name] != mark
            }
            if lost and not fault:
                fault = f"{' '.join(words)}: {sorted(lost)[0]} is lost or changed"
            told = {name: content[-160:] for name, content in bad.files.items() if len(bad.files) < 9}
            result.add(fault and f"{fault} {told}", f"status {ended.status}")
    for name, was in before.items():
        if different := differing(was, tree(getattr(place, name))):
            result.faults.append(f"{name} was changed: {different}")
    return result


def everything() -> Iterator[Bad]:
    yield from flags()
    yield from recipes()
    yield from annotation_files()
    yield from queries()
    yield from filters()
    yield from places()


# Command lines --------------------------------------------------------------------------------

COMMANDS = {
    "prepare-data": "prepare-data cuhk-pedes --data-root {place}/data",
    "train": "train {place}/tiny-clip.toml --data-root {place}/data --device cpu --set train.epochs=1 --out {here}/out",
    "recipes": "recipes demo",
    "runs": "runs {place}/runs",
    "eval": "eval --ckpt {here}/run --data cuhk-pedes --data-root {place}/data",
    "compare": "compare {here}/run {here}/run --data cuhk-pedes --data-root {place}/data",
    "index": "index {place}/photos --ckpt {here}/run --index {here}/photos.h5",
    "search": "search --in {place}/photos --ckpt {here}/run red",
    "export": "export --ckpt {here}/run --out {here}/exported --format safetensors",
    "convert": "convert {place}/official --out {here}/converted",
    "cache": "cache",
    "doctor": "doctor",
}
WHOLE = {
    "--batch": ["eval", "compare", "index"],
    "--workers": ["train", "eval", "index", "search"],
    "--top": ["search"],
    "--worst": ["compare"],
    "--nproc": ["train"],
    "--repeat": ["train"],
    "--identities": ["prepare-data"],
    "--older-than": ["cache"],
}
FRACTIONS = {"--min-score": ["search"], "--tolerance": ["export"], "--interval": ["eval"]}
CHOICES = {"--split": ["eval", "compare", "search"], "--format": ["eval", "export"], "--clean": ["cache"]}
TAKES_VALUE = ["--data-root", "--set", "--device", "--words"]


def flags() -> Iterator[Bad]:
    for command, line in COMMANDS.items():
        words = line.split()
        yield Bad("command lines", [*words, "--nonsense"], {})
        yield Bad("command lines", [*words, "--jsn"], {})
        yield Bad("command lines", [command + "x", *words[1:]], {})
        if command not in ("search", "runs", "recipes", "prepare-data", "index", "convert", "compare", "train"):
            yield Bad("command lines", [*words, "one-word-too-many"], {})
    for group, values in ((WHOLE, ["x", "-1", "3.5", "", "1e99"]), (FRACTIONS, ["x", "nan", "inf", ""])):
        for flag, commands in group.items():
            for command in commands:
                for value in values:
                    yield Bad("values of options", [*COMMANDS[command].split(), f"{flag}={value}"], {})
    for flag, commands in CHOICES.items():
        for command in commands:
            for value in ("tset", "", "--json"):
                yield Bad("values of options", [*COMMANDS[command].split(), flag, value], {})
    for command in ("train", "eval", "index", "search", "export"):
        for value in ("gpu", "cuda:99", "cpu:x", "", "mps:7", "cuda:-1"):
            words = [word for word in COMMANDS[command].split() if word not in ("--device", "cpu")]
            yield Bad("values of options", [*words, "--device", value], {})
        for value in ("nonsense", "=", "train.epochs", "train.epochs=", "=3", "method.name=nope", "a.b.c=1"):
            yield Bad("values of options", [*COMMANDS[command].split(), "--set", value], {})
    for value in ("x", "0x0", "384", "-1x5", "384x", "x128", "9999999x9999999", "384x128x3", "384×128", ""):
        yield Bad("values of options", [*COMMANDS["prepare-data"].split(), f"--decode={value}"], {})
    for more in (["--json", "--csv"], ["--paths", "--json"], ["--queries", "{here}/run/recipe.toml"], ["--minus", ""]):
        yield Bad("values of options", [*COMMANDS["search"].split(), *more], {})
    for more in (["--html", "{here}/a.txt"], ["--save-features", "{here}/a.csv"], ["--save-ranks", "{here}/no/a.csv"]):
        yield Bad("values of options", [*COMMANDS["eval"].split(), *more], {})
    yield Bad("values of options", ["search", "--in", "{place}/photos", "--ckpt", "{here}/run"], {})
    yield Bad("values of options", ["search", "  ", "--in", "{place}/photos", "--ckpt", "{here}/run"], {})
    yield Bad("values of options", ["cache", "--older-than", "3"], {})
    yield Bad("values of options", ["train"], {})
    yield Bad("values of options", ["export", "--ckpt", "{here}/run"], {})


# Recipes --------------------------------------------------------------------------------------

GOOD = b"""[data]
name = "cuhk-pedes"
image_size = [16, 8]
[method]
name = "clip"
weights = "random"
[method.tower]
patch = 8
width = 16
layers = 1
embed = 16
text_width = 16
text_layers = 1
heads = 2
text_heads = 2
[optim]
kind = "adam"
lr = 1e-3
[train]
epochs = 1
batch = 12
select_on = "val"
"""
CHANGES = [
    (b"lr = 1e-3", b"lr = -1e-3"),
    (b"lr = 1e-3", b"lr = nan"),
    (b"lr = 1e-3", b"lr = inf"),
    (b"lr = 1e-3", b'lr = "fast"'),
    (b"lr = 1e-3", b"lr = 1e-3\nlr = 2e-3"),
    (b"lr = 1e-3", b"lr = true"),
    (b"epochs = 1", b"epochs = 0"),
    (b"epochs = 1", b"epochs = 1.5"),
    (b"epochs = 1", b"epochs = -3"),
    (b"epochs = 1", b"epochs = [1]"),
    (b"epochs = 1", b"epoch = 1"),
    (b"batch = 12", b"batch = 0"),
    (b"batch = 12", b"batch = -12"),
    (b'"val"', b'"valid"'),
    (b'"val"', b"1"),
    (b'"adam"', b'"adamm"'),
    (b'"adam"', b'["adam"]'),
    (b"[16, 8]", b"[16]"),
    (b"[16, 8]", b"[16, 8, 3]"),
    (b"[16, 8]", b"[0, 8]"),
    (b"[16, 8]", b"[16, 7]"),
    (b"[16, 8]", b"[1600000, 800000]"),
    (b"[16, 8]", b'"16x8x"'),
    (b"patch = 8", b"patch = 0"),
    (b"patch = 8", b"patch = 8.0"),
    (b"heads = 2\ntext", b"heads = 3\ntext"),
    (b"width = 16\nlayers", b"width = -16\nlayers"),
    (b"layers = 1\nembed", b"layers = -1\nembed"),
    (b'"clip"', b'"clipp"'),
    (b'"clip"', b'"os"'),
    (b'"clip"', b'"../clip"'),
    (b'"clip"', b""),
    (b'"random"', b'"no/such/file.pt"'),
    (b'"random"', b'"/etc/passwd"'),
    (b'"random"', b'"ViT-Z/99"'),
    (b'"cuhk-pedes"', b'"cuhk-pedess"'),
    (b'"cuhk-pedes"', b'"/etc"'),
    (b'"cuhk-pedes"', b'""'),
    (b"[optim]", b"[optimiser]"),
    (b"[optim]", b"[optim"),
    (b"[train]", b"[train]]"),
    (b"[train]", b"[data]"),
    (b"[train]", b"[train]\nprecision = \"fp8\""),
    (b"[train]", b"[train]\naccumulate = 0"),
    (b"[train]", b"[train]\nworkers = -1"),
    (b"[train]", b"[train]\nseed = -1"),
    (b"[train]", b"[train]\nloggers = [\"nope\"]"),
    (b"[train]", b"[train]\nchunk = 0"),
    (b"[train]", b"[train]\n\"\" = 1"),
    (b"[train]", b"[train]\nx = 2026-99-99"),
    (b"[method]", b"[method]\nbatch = \"\\uD800\""),
    (b"[data]", b"\xff\xfe[data]"),
    (b"[data]", b"\x00[data]"),
    (b"[data]", b"<html>[data]"),
    (b"[data]", b"[" * 3000 + b"[data]"),
    (b"[data]", b"x = " + b"[" * 3000 + b"]" * 3000 + b"\n[data]"),
    (b"[data]", b"x = " + b"9" * 9000 + b"\n[data]"),
]  # fmt: skip


def recipes() -> Iterator[Bad]:
    line = ["train", "{here}/r.toml", "--data-root", "{place}/data", "--device", "cpu", "--out", "{here}/out"]
    for old, new in CHANGES:
        assert old in GOOD
        yield Bad("recipes", line, {"r.toml": GOOD.replace(old, new, 1)})
    for content in (b"", b"\n" * 50, b"{}", b'{"data": 1}', b"PK\x03\x04", b"\x80\x04N.", b"a" * 100_000):
        yield Bad("recipes", line, {"r.toml": content})
        yield Bad("recipes", ["recipes", "{here}/r.toml"], {"r.toml": content})


# Annotation files -----------------------------------------------------------------------------


def annotation_files() -> Iterator[Bad]:
    wrong_persons: list[object] = [None, "", [], {}, True, float("nan")]
    wrong_captions: list[object] = [None, [], {}, [None], [3], [[]]]
    wrong_paths: list[object] = [None, "", 3, [], "../../etc/passwd", "/etc/passwd", "a\0b", "gone.png"]
    wrong_splits: list[object] = [None, "", 3, "tset", []]
    good = [
        {"split": split, "id": number, "file_path": f"a/{number}.png", "captions": ["a man", "a person"]}
        for number, split in enumerate(("train", "train", "val", "test"), 1)
    ]
    last = good[-1]

    def changed(**new: object) -> bytes:
        return json.dumps([*good[:-1], {**last, **new}]).encode()

    def without(key: str) -> bytes:
        return json.dumps([*good[:-1], {name: value for name, value in last.items() if name != key}]).encode()

    contents = [
        *(
            b"",
            b"null",
            b"[]",
            b"{}",
            b"3",
            b'"text"',
            b"[",
            b"[1]",
            b"[[]]",
            b"[null]",
            b"\xff\xfe\x00",
            b"PK\x03\x04",
        ),
        *(without(key) for key in last),
        *(changed(id=value) for value in wrong_persons),
        *(changed(file_path=value) for value in wrong_paths),
        *(changed(captions=value) for value in wrong_captions),
        *(changed(split=value) for value in wrong_splits),
        json.dumps(good).encode()[:-10],
        b"[" * 20_000,
        json.dumps(good).encode("utf-16"),
    ]
    pixel = bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc00000030101"
        "00c9fe92ef0000000049454e44ae426082"
    )
    images = {f"data/CUHK-PEDES/imgs/a/{number}.png": pixel for number in range(1, 5)}
    for content in contents:
        files = {"data/CUHK-PEDES/reid_raw.json": content, **images}
        yield Bad(
            "annotations", ["eval", "--ckpt", "{here}/run", "--data", "cuhk-pedes", "--data-root", "{here}/data"], files
        )
    tables = [
        b"",
        b"image,caption\n",
        b"picture,caption\na.png,a man\n",
        b"image,caption,split\na.png,a man\n",
        b"image,image,caption\na.png,a.png,a man\n",
        b'image,caption\na.png,"a man\n',
        b"image,caption\n../a.png,a man\n",
        b"image,caption\ngone.png,a man\n",
        b"image,caption\na.png,a man,in red,and blue\n",
        b"image,caption,person\na.png,a man,x\na.png,a man,y\n",
        b"\xff\xfe\x00\x01",
        b"image\tcaption\na.png\n",
    ]
    for content in tables:
        files = {"own/pairs.csv": content, "own/a.png": pixel}
        yield Bad("annotations", ["eval", "--ckpt", "{here}/run", "--data", "{here}/own/pairs.csv"], files)


# Searches -------------------------------------------------------------------------------------


def queries() -> Iterator[Bad]:
    line = ["search", "--in", "{place}/photos", "--ckpt", "{here}/run", "--queries"]
    cases: list[tuple[str, bytes]] = [
        ("q.json", b""),
        ("q.json", b"["),
        ("q.json", b"{}"),
        ("q.json", b"[]"),
        ("q.json", b"[1]"),
        ("q.json", b"[null]"),
        ("q.json", b'[{"txt": "a man"}]'),
        ("q.json", b'[{"query": ""}]'),
        ("q.json", b'[{"query": 3}]'),
        ("q.json", b'[{"query": "a", "person": {}}]'),
        ("q.json", b"[" * 10_000),
        ("q.jsonl", b""),
        ("q.jsonl", b'{"query": "a"}\n{"query": \n'),
        ("q.jsonl", b'"a"\n3\n'),
        ("q.csv", b""),
        ("q.csv", b"query\n"),
        ("q.csv", b"text,text\na,b\n"),
        ("q.csv", b"sentence,nonsense\n"),
        ("q.csv", b"query,person\na man, in red,3\n"),
        ("q.csv", b'query\n"a man\n'),
        ("q.csv", b"query;person\na;1\n\xff"),
        ("q.txt", b""),
        ("q.txt", b"\n\n \n"),
        ("q.txt", b"\xff\xfe\xfd"),
        ("q.txt", b"a\0b\n"),
    ]
    for name, content in cases:
        yield Bad("query files", [*line, f"{{here}}/{name}"], {name: content})
    yield Bad("query files", [*line, "{here}/gone.txt"], {})
    yield Bad("query files", [*line, "{here}"], {})
    yield Bad("query files", [*line, "-"], {}, b"")
    yield Bad("query files", [*line, "-"], {}, b"\n \n")


def filters() -> Iterator[Bad]:
    line = ["search", "red", "--in", "{place}/photos", "--ckpt", "{here}/run", "--where"]
    wrong = [
        *(
            "",
            " ",
            "camera",
            "camera ==",
            "== 3",
            "camera = ",
            "camera == ==",
            "camera == 'a",
            'camera == "a',
            "(((",
            ")",
        ),
        *("camra == 'a'", "camera === 'a'", "camera == 'a' and", "or camera == 'a'", "not", "camera like 3"),
        *("camera < 3", "score > 'x'", "time > 'yesterday'", "person like 3", "__import__('os').system('touch x')"),
        *("camera == 'a'; drop", "path.__class__", "lambda: 0", "camera in", "camera in (", "camera in ('a'", "1 == 1"),
        *("camera == 'a' camera == 'b'", "(camera == 'a'", "\x00", "path like", "time == 2024-99-99", "score > nan"),
        "(" * 5000 + "camera == 'a'" + ")" * 5000,
        "not " * 5000 + "camera == 'a'",
    ]
    for text in wrong:
        yield Bad("filters", [*line, text], {})


# Places ---------------------------------------------------------------------------------------


def places() -> Iterator[Bad]:
    files = {
        "empty.h5": b"",
        "text.h5": b"no index\n" * 100,
        "head.h5": b"\x89HDF\r\n\x1a\n",
        "zeros.h5": b"\x89HDF\r\n\x1a\n" + bytes(4000),
        "zip.h5": b"PK\x03\x04" + bytes(100),
        "best.pth": b"\x80\x02N.",
        "lfs.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "page.pth": b"<!DOCTYPE html><html></html>",
        "weights.safetensors": b"\xff" * 64,
        "none/x": b"",
        "bad-run/recipe.toml": b"x",
        "half-run/recipe.toml": GOOD,
        "archive.zip": b"PK\x03\x04",
        "archive.tar": b"x" * 1024,
        "archive.rar": b"Rar!\x1a\x07\x00",
        "a.png": b"no image",
    }
    checkpoints = "empty.h5 best.pth lfs.pth page.pth weights.safetensors none bad-run half-run gone archive.zip a.png"
    for name in checkpoints.split():
        for command in ("eval", "export", "index", "convert"):
            words = COMMANDS[command].replace("{here}/run", f"{{here}}/{name}").split()
            words = [word.replace("{place}/official", f"{{here}}/{name}") for word in words]
            yield Bad("checkpoints", words, files)
    for name in ["empty.h5", "text.h5", "head.h5", "zeros.h5", "zip.h5", "best.pth", "gone.h5", "run"]:
        yield Bad("indexes", ["search", "red", "--in", f"{{here}}/{name}", "--ckpt", "{here}/run"], files)
        if name not in ("gone.h5",):
            words = ["index", "{place}/photos", "--ckpt", "{here}/run", "--index", f"{{here}}/{name}"]
            yield Bad("indexes", words, files)
    for name in ("archive.zip", "archive.tar", "archive.rar", "a.png", "gone.zip", "none", "empty.h5"):
        words = ["prepare-data", "cuhk-pedes", "--source", f"{{here}}/{name}", "--data-root", "{here}/data"]
        yield Bad("sources", words, files)
    for name in ("{here}/a.png", "{here}/gone", "{here}/a.png/x", "/dev/null", "/proc/self/mem", "x" * 300, "a\nb"):
        yield Bad("folders", ["index", name, "--ckpt", "{here}/run"], files)
        yield Bad("folders", ["eval", "--ckpt", "{here}/run", "--data", "cuhk-pedes", "--data-root", name], files)
        yield Bad("folders", ["search", "red", "--in", name, "--ckpt", "{here}/run"], files)
    for out in ("{here}/run", "{here}/a.png", "{here}/a.png/x", "/proc/x/y", "{here}/" + "x" * 300):
        yield Bad("folders", ["export", "--ckpt", "{here}/run", "--out", out, "--format", "safetensors"], files)
        yield Bad("folders", ["convert", "{place}/official", "--out", out], files)
        yield Bad(
            "folders", ["search", "red", "--in", "{place}/photos", "--ckpt", "{here}/run", "--copy-to", out], files
        )
        yield Bad("folders", ["eval", "--ckpt", "{here}/run", "--html", out], files)
