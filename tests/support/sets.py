"""Tiny data sets in the official formats, made by the tests themselves."""

import json

import numpy as np
from PIL import Image


def save_image(path, seed=0, size=(12, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def cuhk_records(persons=(3, 2, 2), images=2):
    """(train, val, test) persons, ids from 1, two captions an image, as reid_raw.json has them."""
    records, person = [], 0
    for split, count in zip(("train", "val", "test"), persons, strict=True):
        for _ in range(count):
            person += 1
            for number in range(images):
                captions = [
                    f"Person {person} as seen in image {number}.",
                    f"someone numbered {person} seen at {number}",
                ]
                path = f"cam_a/{person:03}_{number}.png"
                records.append({"split": split, "id": person, "file_path": path, "captions": captions})
    return records


def write_set(folder, records, annotation="reid_raw.json", key="file_path"):
    for seed, record in enumerate(records):
        save_image(folder / "imgs" / record[key], seed)
    (folder / annotation).write_text(json.dumps(records), encoding="utf-8")
    return folder
