"""Rank a folder of images for a sentence with the graphs beside this file; neither torch nor tbps is needed.

pip install numpy onnxruntime pillow tokenizers
python search.py "a man in a white shirt" IMAGES [--top 10]

To build on it: `ExportedFolder(folder).texts([...])` and `.images([...])` give unit rows; their dot product is a score.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer

ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ExportedFolder:
    """The exported folder: tbps.json says how images and sentences are prepared."""

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "tbps.json").read_text("utf-8"))
        self.graphs = {name: onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("image", "text")}
        self.tokenizer = Tokenizer.from_file(str(folder / "clip_tokenizer.json"))
        self.tokenizer.encode_special_tokens = True  # written out in a sentence they are plain words
        # int8 graphs scale by the largest value of a batch, so they are given one row at a time
        self.batch = 1 if self.about["precision"] == "int8" else 8

    def texts(self, sentences: list[str]) -> np.ndarray:
        """Sentences -> unit rows, [N, E]."""
        found = self.tokenizer.encode_batch([sentence.lower() for sentence in sentences])
        return self.run("text", [np.array(one.ids, np.int64) for one in found])

    def images(self, paths: list[Path]) -> np.ndarray:
        """Image files -> unit rows, [N, E]."""
        rows = [self.run("image", [self.pixels(path)]) for path in paths]
        return np.concatenate(rows)

    def pixels(self, path: Path) -> np.ndarray:
        """A file -> what the graph takes: upright, RGB, resized without keeping its shape, normalised."""
        how = self.about["transform"]
        height, width = how["size"]
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        if "fused" in self.about:
            return np.asarray(image)  # uint8 [H, W, 3]: the graph does the rest
        image = image.resize((width, height), Image.Resampling[how["resample"].upper()])
        mean, std = (np.array(how[name], np.float32) for name in ("mean", "std"))
        values = (np.asarray(image, np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def run(self, name: str, rows: list[np.ndarray]) -> np.ndarray:
        """Prepared rows -> unit rows."""
        graph = self.graphs[name]
        given = graph.get_inputs()[0].name
        parts = [np.stack(rows[start : start + self.batch]) for start in range(0, len(rows), self.batch)]
        return np.concatenate([graph.run(None, {given: part})[0] for part in parts])


def main() -> None:
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


if __name__ == "__main__":
    main()
