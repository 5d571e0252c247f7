"""TextReID's files as its authors have them, tiny: a data folder with annotations and table, and a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from support.sets import save_image
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden" / "textreid"
SETS = ["method.pool_heads=4"]
"""What no file says: the tiny attention pool has 4 heads where its width would have 2."""
YAML = """MODEL:
  DEVICE: "cuda"
  VISUAL_MODEL: "m_resnet50"
  NUM_CLASSES: 11
  MOCO:
    K: 32
    FC: False
    M: 0.9
  GRU:
    ONEHOT: "clip_vit"
    VOCABULARY_SIZE: 16
  RESNET:
    RES5_STRIDE: 1
  EMBEDDING:
    EMBED_HEAD: 'moco'
    FEATURE_SIZE: 16
    EPSILON: 0.1
INPUT:
  HEIGHT: 64
  WIDTH: 32
DATASETS:
  TRAIN: ("cuhkpedes_train", )
SOLVER:
  STEPS: (40, 70)
"""


def weights(folder: str = ".") -> dict[str, Tensor]:
    return load_file(GOLDEN / folder / "weights.safetensors")


def table() -> np.ndarray:
    return load_file(GOLDEN / "inputs.safetensors")["vocab_table"].numpy()


def words(count: int = 60) -> list[str]:
    """As many made-up words as the golden table has rows."""
    return [f"word{number}" for number in range(1, count + 1)]


def data_folder(root: Path, vocabulary: list[str] | None = None, *, with_table: bool = True) -> Path:
    """ROOT/cuhkpedes as the released code reads it: 2 captions an image, 2 images a person, ids from 0."""
    vocabulary = vocabulary or words()
    folder, image, entry = root / "cuhkpedes", 0, 0
    for split, persons in (("train", (0, 1, 2, 3)), ("val", (4, 5)), ("test", (6, 7, 8))):
        annotations = []
        for person in persons:
            for view in range(2):
                image += 1
                path = f"cam_a/{person:03}_{view}.png"
                save_image(folder / "imgs" / path, image)
                for _ in range(2):
                    ids = [1 + (entry + step) % len(vocabulary) for step in range(4)]
                    ids += [1 + (2 * entry + step) % len(vocabulary) for step in range(person % 3)]
                    entry += 1
                    sentence = " ".join(vocabulary[number - 1] for number in ids).capitalize() + "."
                    record = {"image_id": image, "id": person, "file_path": path, "sentence": sentence}
                    annotations.append(record | {"onehot": ids})
        if split == "test":  # a word in no other place, as in the released files; every word has an id somewhere
            every = list(range(1, len(vocabulary) + 1))
            sentence = " ".join(vocabulary)
            annotations.append({**annotations[-1], "sentence": sentence, "onehot": every})
        target = folder / "annotations" / f"{split}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"categories": list(persons), "annotations": annotations}))
    if with_table:
        np.save(folder / "clip_vocab_vit.npy", table().astype(np.float64))
    return folder


def checkpoint(folder: Path, state: dict[str, Tensor] | None = None, *, prefix: str = "", yaml: bool = True) -> Path:
    """best.pth as the released training loop writes it: shared towers under two names with one storage."""
    state = dict(state or weights())
    for name in list(state):
        for twin, own in (
            ("embed_model.v_encoder_q.", "visual_model."),
            ("embed_model.t_encoder_q.", "textual_model."),
        ):
            if name.startswith(twin):
                state[name] = state[own + name.removeprefix(twin)]
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model": {prefix + name: value for name, value in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "initial_lr": 1e-4}]},
        "scheduler": {"milestones": (40, 70), "mode": "step", "last_epoch": 4, "base_lrs": [1e-4], "_last_lr": [1e-4]},
        "epoch": 41,
        "iteration": 1200,
        "max_epoch": 80,
        "distributed": False,
    }
    torch.save(content, folder / "best.pth")
    if yaml:
        (folder / "moco_gru_cliprn50_ls_bs128_2048.yaml").write_text(YAML)
    return folder / "best.pth"
