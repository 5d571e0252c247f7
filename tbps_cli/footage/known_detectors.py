"""The names of detectors, and where the weights of torchvision's lie."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from tbps_cli.places import cache_dir

HOG = "hog"


@dataclass(frozen=True)
class KnownDetector:
    """One of torchvision's detectors, trained on COCO."""

    file: str
    """Name of its weights, which ends in the first 8 digits of their SHA-256."""
    megabytes: int
    about: str

    @property
    def url(self) -> str:
        """Where the weights are fetched from."""
        return f"https://download.pytorch.org/models/{self.file}"

    @property
    def sha256(self) -> str:
        """The first digits of the hash."""
        return self.file.rpartition("-")[2].partition(".")[0]

    @property
    def path(self) -> Path:
        """Where the weights lie on this machine once they are fetched."""
        return cache_dir() / "weights" / self.file

    def found(self) -> Path | None:
        """Its weights on this machine: in our cache, or where torchvision keeps them when their hash is right."""
        if self.path.is_file():
            return self.path
        # Path.home() fails for a user who has none
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111
        path = Path(os.environ.get("TORCH_HOME") or f"{caches}/torch") / "hub" / "checkpoints" / self.file
        if not path.is_file():
            return None
        with path.open("rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest().startswith(self.sha256)
        return path if sound else None


KNOWN = {
    "fasterrcnn_mobilenet_v3_large_fpn": KnownDetector(
        "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth", 74, "a good choice without a GPU"
    ),
    "fasterrcnn_resnet50_fpn_v2": KnownDetector(
        "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 167, "finds most, for a GPU"
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": KnownDetector(
        "fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 74, "fast, for persons who are large in the frame"
    ),
    "ssdlite320_mobilenet_v3_large": KnownDetector(
        "ssdlite320_mobilenet_v3_large_coco-a79551df.pth", 13, "the smallest, for persons who are large in the frame"
    ),
}
"""By name, what is proposed first."""
PROPOSED = next(iter(KNOWN))
