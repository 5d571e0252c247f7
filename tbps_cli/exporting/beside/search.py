"""Rank a folder of images for a sentence with the graphs beside this file; neither torch nor tbps is needed.

pip install numpy 'onnxruntime>=1.32' pillow tokenizers
python search.py "a man in a white shirt" IMAGES [--top 10]

To build on it: `ExportedFolder(folder).texts([...])` and `.images([...])` give unit rows; their dot product is a score.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ExportedFolder:
    """The exported folder: tbps.json says how images and sentences are prepared, and what its files were."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "tbps.json").read_text("utf-8"))
        for name, known in self.about["files"].items():
            file = folder / name
            if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != known["sha256"]:
                raise SystemExit(f"{file} is not what was exported: its SHA-256 is another one.")
        self.graphs = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("image", "text")}
        self.tokenizer = Tokenizer.from_file(str(folder / "clip_tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # written out in a sentence they are plain words
        # int8 graphs scale by the largest value of a batch, so they are given one row at a time
        self.batch = 1 if self.about["precision"] == "int8" else 8

    def texts(self, sentences: list[str]) -> np.ndarray:
        """Sentences -> unit rows, [N, E]."""
        encoded = self.tokenizer.encode_batch([sentence.lower() for sentence in sentences])
        return self.run("text", [np.array(one.ids, np.int64) for one in encoded])

    def images(self, paths: list[Path]) -> np.ndarray:
        """Image files -> unit rows, [N, E]."""
        return np.concatenate([self.run("image", [self.pixels(path)]) for path in paths])

    def pixels(self, path: Path) -> np.ndarray:
        """A file -> what the graph takes: upright, RGB, resized without keeping its shape, normalised."""
        how = self.about["transform"]
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        if "fused" in self.about:
            return np.asarray(image)  # uint8 [H, W, 3]: the graph does the rest
        image = image.resize(how["size"][::-1], Image.Resampling[how["resample"].upper()])
        mean, std = (np.array(how[name], np.float32) for name in ("mean", "std"))
        return np.ascontiguousarray(((np.asarray(image, np.float32) / np.float32(255) - mean) / std).transpose(2, 0, 1))

    def run(self, name: str, rows: list[np.ndarray]) -> np.ndarray:
        """Prepared rows -> unit rows."""
        given, found = self.graphs[name].get_inputs()[0], []
        for start in range(0, len(rows), self.batch):
            part = np.stack(rows[start : start + self.batch])
            if name == "text" and isinstance(given.shape[1], str):  # of any length: the end has the largest number
                part = part[:, : part.argmax(axis=1).max() + 1]
            found.append(self.graphs[name].run(None, {given.name: part})[0])
        return np.concatenate(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentence")
    parser.add_argument("images", type=Path)
    parser.add_argument("--top", type=int, default=10)
    options = parser.parse_args()
    paths = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in ENDINGS)
    if not paths:
        raise SystemExit(f"{options.images} holds no images.")
    model = ExportedFolder(Path(__file__).parent)
    scores = model.images(paths) @ model.texts([options.sentence])[0]
    for place in np.argsort(-scores, kind="stable")[: options.top]:
        print(f"{scores[place]:.4f}  {paths[place]}")
