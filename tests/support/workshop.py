"""A folder with small things under every name that the documents use."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from PIL import Image
from support.hub import Hub
from support.nam import DATASET, published
from support.onnx_detector import graph
from support.runs import YAML
from support.sets import cuhk_records, save_image, write_set
from support.shell import Shell
from support.street import SMALL
from support.videos import write_video

from tbps_cli.footage.frames import frames
from tbps_cli.synthetic.street import build_street

SMALLER = (
    "--set 'method.tower={width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=1}' "
    "--set train.epochs=1 --set train.batch=8 --set train.workers=0"
)
"""What makes a published setting small."""
DRAWN = "--set method.weights=random"
"""Instead of weights that would have to be fetched."""
BUILT = (
    f"tbps train irra {SMALLER} {DRAWN} --set 'data.image_size=[64, 32]' --out runs/irra-0001",
    f"tbps train rde {SMALLER} {DRAWN} --set 'data.image_size=[64, 32]' --out runs/rde-0001",
    "tbps prepare-data synthetic --identities 80 --decode 96x32",
    "tbps train demo --set train.epochs=1 --set train.batch=32",
    "tbps index street.mp4",
    "ln -s runs/demo-0001 RUN",
    "ln -s data DIR",
)
"""Lines that are typed first of all. runs/demo-0001 is the newest run."""


def new_hub() -> Hub:
    """A hub that has NAM's weights in small."""
    return Hub({DATASET: {"best0.pth": published()}})


def prepare(place: Path, shell: Shell) -> None:
    """Fill a folder."""
    _footage(place)
    _images(place)
    _sets(place)
    _weights(place)
    for line in BUILT:
        done = shell.run(line, place)
        assert done.status == 0, f"{line}: {done.text}"


def _footage(place: Path) -> None:
    street = place / "street"
    build_street(street, SMALL, workers=1)
    clips = sorted((street / "clips").glob("*.mp4"))
    seconds = [frame.image for frame in frames(clips[0])][: 3 * SMALL.rate]
    short = write_video(place / "street.mp4", seconds, rate=SMALL.rate)
    copies = [
        "platform2.mp4",
        "cam2.mp4",
        "clips/cam1_2026-01-05T10-00-00.mp4",
        "recordings/c1/2026-01-05/10-00-00.mp4",
    ]
    tuesday = date(2026, 11, 24)
    for camera in range(1, 7):
        for day in (tuesday - timedelta(days=1), tuesday):
            copies.append(f"cameras/cam{camera}/cam{camera}_{day}T10-00-{7 * (camera - 1):02d}.mp4")
    for name in copies:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(short, place / name)
    nobody = [Image.new("RGB", seconds[0].size, "grey")] * len(seconds)
    write_video(place / "cameras" / "cam5" / "cam5_2026-11-23T10-00-28.mp4", nobody, rate=SMALL.rate)
    (place / "frames").mkdir()
    shutil.copy(next((street / "frames").iterdir()), place / "frames" / "cam1_2026-01-05T10-00-02.jpg")
    box = {"boxes": np.array([[20, 20, 60, 140]], np.float32), "scores": np.array([0.9], np.float32)}
    graph(place / "yolox_s.onnx", box)


def _images(place: Path) -> None:
    for folder in ("photos", "photos/gate-2"):
        for seed in range(4):
            save_image(place / folder / f"{seed:05d}_0.jpg", seed + len(folder), (40, 96))
    for folder in ("home/crops", "platform1", "cam1", "cam7", "cams/cam_a", "city"):
        for seed in range(4):
            save_image(place / folder / f"cam3_2026-01-05T10-11-{seed:02d}.jpg", seed + len(folder), (40, 96))
    for seed, name in enumerate(("crop.jpg", "pool.jpg", "it.jpg", "a.jpg", "b.jpg")):
        save_image(place / name, 50 + seed, (40, 96))
    (place / "descriptions.txt").write_text("a man in a red coat\na woman with a bag\n")


def _sets(place: Path) -> None:
    records = cuhk_records(persons=(6, 3, 3))
    for number, record in enumerate(records):
        coat, bag = ("red", "black") if number % 2 else ("blue", "white")
        record["captions"] = [
            f"a man in a {coat} coat and black trousers",
            f"a woman in a {coat} shirt, with a {bag} bag",
        ]
    write_set(place / "data" / "CUHK-PEDES", records)
    with zipfile.ZipFile(place / "CUHK-PEDES.zip", "w") as archive:
        for file in (place / "data" / "CUHK-PEDES").rglob("*.*"):
            archive.write(file, file.relative_to(place / "data"))
    shutil.copy(place / "CUHK-PEDES.zip", place / "ARCHIVE.zip")
    (place / "reid_raw.json").write_text(json.dumps(records))
    write_set(place / "data" / "ICFG-PEDES", records, "ICFG-PEDES.json")
    named = [{**record, "img_path": Path(record["file_path"]).name} for record in records]
    write_set(place / "data" / "RSTPReid", named, "data_captions.json", "img_path")
    captions = [{"id": place, "file_path": f"Part1/{place}.jpg", "captions": ["a man", "he"]} for place in range(12)]
    write_set(place / "data" / "SYNTH-PEDES", captions, "synthpedes_dataset.json")
    write_set(place / "data" / "WebPerson", captions, "captions.json")
    images = [{"file_path": f"{number}.jpg", "captions": ["a man"]} for number in range(24)]
    table = {record["file_path"]: "a man in a red coat" for record in images}
    write_set(place / "data" / "LUPerson-MLLM", images, "unused.json")
    (place / "data" / "LUPerson-MLLM" / "unused.json").unlink()
    (place / "data" / "LUPerson-MLLM" / "Td-qwen.json").write_text(json.dumps(table))
    pairs = [
        {"image": f"pairs/{number}.jpg", "caption": f"a man numbered {number}", "person": number // 2}
        for number in range(24)
    ]
    for seed, pair in enumerate(pairs):
        save_image(place / str(pair["image"]), seed)
    (place / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    rows = "".join(f'{pair["image"]},"a man, numbered {number}"\n' for number, pair in enumerate(pairs))
    (place / "my.csv").write_text(f"image,caption\n{rows}")
    _parquet(place / "FOLDER-OF-PARQUET" / "data" / "0.parquet")


def _parquet(path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True)
    content = []
    for colour in ("red", "blue", "green", "white"):
        file = io.BytesIO()
        Image.new("RGB", (12, 30), colour).save(file, "PNG")
        content.append(file.getvalue())
    columns = {"image": content, "image_path": [f"x/{n}.png" for n in range(4)], "caption1": ["a man"] * 4}
    write_table(pyarrow.table(columns), path)


def _weights(place: Path) -> None:
    options = YAML.format(height=384, width=128).replace("ICFG-PEDES", "CUHK-PEDES")
    for path in (
        "best.pth", "best0.pth", "HAM_checkpoint/random100w_2HAMcaptions/best0.pth",
        "logs/CUHK-PEDES/irra/best.pth", "nam/best.pth",
    ):  # fmt: skip
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(published())
        if file.name == "best.pth" and file.parent != place:
            file.with_name("configs.yaml").write_text(options)
