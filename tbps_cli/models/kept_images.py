"""The image tower of a checkpoint as a graph for OpenVINO in the cache, in bfloat16: quicker than PyTorch, without it.

It is made from the opened model when images are first embedded in this way, compared with the model before it is kept,
and belongs to the fingerprint of its embeddings. One is kept for each file of weights. Where nothing can be kept the
graph stays in memory.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli import files
from tbps_cli.errors import CacheError, TbpsError, WeightsError
from tbps_cli.models.kept_files import check, seal
from tbps_cli.models.kept_tower import IMAGES, SWITCH, name_of, towers
from tbps_cli.models.openvino_graph import OpenVinoGraph, import_openvino, in_bfloat16
from tbps_cli.weights.mapped_pages import ReadOnce, give_back

if TYPE_CHECKING:
    import torch

    from tbps_cli.features.encoder import ImageEncoder
    from tbps_cli.methods.base import Method

logger = logging.getLogger("tbps")

GRAPH = "images.xml"
LARGEST = 4096
"""Images that the graph takes at a time, at most."""
AGREES = 0.999
"""The least cosine with float32; `features.fastest_way` asks for the same, of the images of a gallery."""


def place_of(weights: Path, fingerprint: str) -> Path:
    """The folder of a graph, whether it is there or not. Raises CacheError where there can be no cache."""
    return towers() / f"{name_of(weights)}-{fingerprint}{IMAGES}"


def kept(weights: Path, fingerprint: str) -> OpenVinoGraph | None:
    """The graph of a file of weights, where one was kept and nothing of it has changed since."""
    try:
        graph = place_of(weights, fingerprint) / GRAPH
        if not graph.is_file():
            return None
        check(graph)
        return OpenVinoGraph(graph)
    except (OSError, TbpsError):
        return None


def discard(weights: Path, fingerprint: str) -> None:
    """Take a damaged graph away."""
    shutil.rmtree(place_of(weights, fingerprint), ignore_errors=True)


def graph_of(model: ImageEncoder, method: Method, weights: Path | None) -> OpenVinoGraph:
    """The graph of an opened model and its method; made now, and kept, unless it was. weights: the file they are of.

    Raises WeightsError where PyTorch or OpenVINO cannot make it, or it differs from the model.
    """
    began = time.monotonic()
    graph = None if weights is None else kept(weights, model.fingerprint)
    if graph is not None:
        return graph
    sample = _Sample(model)
    made = _made(model, method, weights)
    if weights is None or os.environ.get(SWITCH) == "0":
        return sample.checked(OpenVinoGraph(model.path, made))
    try:
        folder = place_of(weights, model.fingerprint)
        with files.new_folder(folder, folder, CacheError, replace=True) as new:
            import_openvino().save_model(made, new / GRAPH, compress_to_fp16=False)
            del made
            give_back()
            seal(new)
            sample.checked(OpenVinoGraph(new / GRAPH)).close()
            size = sum(file.stat().st_size for file in new.iterdir())
        for other in folder.parent.glob(f"{name_of(weights)}-*{IMAGES}"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    except CacheError as error:
        logger.debug("%s: its image tower is not kept as a graph: %s", model.path, error.message)
        return sample.checked(OpenVinoGraph(model.path, _made(model, method, weights)))
    logger.info(
        "the image tower of %s is kept as a graph for OpenVINO: %.0f MB in the cache, in %.0f s (%s=0: it is not)",
        model.path,
        size / 2**20,
        time.monotonic() - began,
        SWITCH,
    )
    return OpenVinoGraph(folder / GRAPH)


def _made(model: ImageEncoder, method: Method, weights: Path | None) -> Any:
    """The image tower as OpenVINO has it. Raises WeightsError."""
    import torch

    image_BCHW = torch.zeros(2, 3, *model.transform.size)
    batch = torch.export.Dim("batch", min=1, max=LARGEST)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.export.export(_tower(method), (image_BCHW,), dynamic_shapes=({0: batch},), strict=False)
            made = import_openvino().convert_model(traced)
        del traced
        ReadOnce(weights).done()
        in_bfloat16(made, weights)
    except Exception as error:  # whatever the traced code, or the one that reads the trace, ran into
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{model.path}: OpenVINO cannot run its image tower: {reason:.200}") from error
    return made


class _Sample:
    """Images of noise, and what the model makes of them in float32."""

    def __init__(self, model: ImageEncoder) -> None:
        self.path = model.path
        self.image_BCHW = np.random.default_rng(0).standard_normal((3, 3, *model.transform.size)).astype(np.float32)
        self.exact_BE: NDArray[np.float32] = model.image_arrays(self.image_BCHW)

    def checked(self, graph: OpenVinoGraph) -> OpenVinoGraph:
        """The graph, if it does what the model does. Raises WeightsError."""
        cosine = float((graph(self.image_BCHW) * self.exact_BE).sum(axis=1).min())
        if not cosine >= AGREES:
            raise WeightsError(f"{self.path}: its image tower in OpenVINO differs from float32 (cosine {cosine:.4f})")
        return graph


def _tower(method: Method) -> torch.nn.Module:
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.method.encode_images(image)

    return Tower().eval()
