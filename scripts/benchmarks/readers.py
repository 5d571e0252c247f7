"""Seconds and memory to read the annotations of pre-training sets: a million records of each shape.

scripts/bench readers [--records N] [--shapes synth-pedes,luperson-mllm,...] [--ours-only]

Each reading runs in a process of its own, so that its peak memory is its own: `open_dataset`, then the training
split, as a training does. The usual way beside it is the papers': `json.load` (or pandas' way with Parquet: the
whole table) and a list of tuples (person, image, path, caption). The files are drawn into a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tbps_cli.data.open import find_layout, open_dataset

Entry = tuple[str, int, list[str]]
WORDS = (
    "The {} wears a bright red jacket over a white shirt, dark blue jeans and grey sneakers, carries a black backpack "
    "on the left shoulder and looks at number {}."
)
MOST_SECONDS, MOST_BYTES = 60.0, 1_000_000_000


def entries(count: int, captions: int) -> Iterator[Entry]:
    """(path, person, captions): sentences as long as those of the sets, about 27 words."""
    for number in range(count):
        texts = [WORDS.format(who, number) for who in ("man", "woman", "person", "pedestrian")[:captions]]
        yield f"Part{number % 11 + 1}/{number // 15}/{number}.jpg", number // 15, texts


def write_list(path: Path, records: Iterator[object]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, record in enumerate(records):
            file.write((",\n" if number else "") + json.dumps(record))
        file.write("]")


def write_synth_pedes(folder: Path, count: int) -> None:
    write_list(
        folder / "synthpedes_dataset.json",
        (
            {"id": person, "file_path": path, "attributes": ["red jacket,jeans"], "captions": texts,
             "prompt_caption": ["A person with a red jacket."]}
            for path, person, texts in entries(count, 3)
        ),
    )  # fmt: skip


def write_mals(folder: Path, count: int) -> None:
    (folder / "gene_attrs").mkdir()
    write_list(
        folder / "gene_attrs" / "g_4x_attrs.json",
        (
            {"image": path, "caption": texts[0], "image_id": str(number), "label": [1, 0, -1] * 9}
            for number, (path, _, texts) in enumerate(entries(count, 1))
        ),
    )


def write_luperson_mllm(folder: Path, count: int) -> None:
    """Two of its four files, with the same images: half of the records in each."""
    for place, name in enumerate(("Ts-qwen.json", "Td-qwen.json")):
        with (folder / name).open("w", encoding="utf-8") as file:
            for number, (path, _, texts) in enumerate(entries(count // 2, 2)):
                file.write(("{" if not number else ",\n") + f"{json.dumps(path)}: {json.dumps(texts[place])}")
            file.write("}")


def write_webperson(folder: Path, count: int) -> None:
    """One-entry tables, as the authors' code reads them."""
    records = ({path: {"caption1": texts[0], "caption2": texts[1]}} for path, _, texts in entries(count, 2))
    write_list(folder / "100w.json", records)


def write_parquet(folder: Path, count: int) -> None:
    """The columns of the hub's files, with images of a kilobyte, which no reading may touch."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([("image", pyarrow.binary()), *((name, pyarrow.string()) for name in COLUMNS)])
    drawn = entries(count, 2)
    with ParquetWriter(folder / "part-0.parquet", schema) as writer:
        for start in range(0, count, 10_000):
            rows = [next(drawn) for _ in range(start, min(start + 10_000, count))]
            columns = [
                [bytes(1000)] * len(rows),
                [row[0] for row in rows],
                *zip(*(row[2] for row in rows), strict=True),
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


COLUMNS = ("image_path", "caption1", "caption2")
SHAPES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "synth-pedes": ("synth-pedes", write_synth_pedes),
    "mals": ("mals", write_mals),
    "luperson-mllm": ("luperson-mllm", write_luperson_mllm),
    "webperson": ("webperson", write_webperson),
    "webperson-parquet": ("webperson", write_parquet),
}


def read_ours(shape: str, root: Path) -> str:
    split = open_dataset(SHAPES[shape][0], root).split("train")
    return f"{len(split.paths):,} images, {len(split):,} captions"


def read_usual(shape: str, root: Path) -> str:
    """Load a file whole, then make the list that the papers' data sets hold."""
    found: list[tuple[int, int, str, str]] = []
    layout = find_layout(SHAPES[shape][0])
    assert layout is not None
    for path in sorted((root / layout.folder).rglob("*.*")):
        for number, (image, texts) in enumerate(_loaded(path)):
            found += [(number, number, f"{root}/{image}", text) for text in texts]
    return f"{len({row[2] for row in found}):,} images, {len(found):,} captions"


def _loaded(path: Path) -> Iterator[tuple[str, list[str]]]:
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        for row in read_table(path, columns=list(COLUMNS)).to_pylist():
            yield row["image_path"], [row["caption1"], row["caption2"]]
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    for record in content.items() if isinstance(content, dict) else content:
        if isinstance(record, tuple):
            yield record[0], [record[1]]
        elif len(record) == 1:
            image, texts = next(iter(record.items()))
            yield image, list(texts.values())
        else:
            texts = record.get("captions", record.get("caption"))
            yield record.get("file_path", record.get("image")), texts if isinstance(texts, list) else [texts]


def measured(way: str, shape: str, root: Path) -> dict[str, object]:
    """One reading in a new process: seconds, processor seconds, peak memory."""
    command = [sys.executable, "-P", "-m", "benchmarks.readers", "--one", way, "--shapes", shape, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def one(way: str, shape: str, root: Path) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    text = {"ours": read_ours, "usual": read_usual}[way](shape, root)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    print(json.dumps({"read": text, "bytes": peak, **seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--one", choices=("ours", "usual"), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.shapes, options.root)
        return
    held = True
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            layout = find_layout(SHAPES[shape][0])
            assert layout is not None
            folder = Path(temporary) / layout.folder
            folder.mkdir()
            SHAPES[shape][1](folder, options.records)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{shape}: {options.records:,} records in {size / 1e6:,.0f} MB", flush=True)
            for way in ("ours",) if options.ours_only else ("ours", "usual"):
                found = measured(way, shape, Path(temporary))
                print(
                    f"  {way:6} {found['wall']:6.1f} s, {found['processor']:6.1f} s of processor time, "
                    f"{found['bytes'] / 1e6:7,.0f} MB at most: {found['read']}",
                    flush=True,
                )
                held &= way != "ours" or (found["processor"] <= MOST_SECONDS and found["bytes"] <= MOST_BYTES)
    print(f"at most {MOST_SECONDS:.0f} s and {MOST_BYTES / 1e9:.0f} GB: {'held' if held else 'NOT held'}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
