"""The two towers as ONNX graphs: one for images, one for captions, each ending in unit rows.

A graph carries in its metadata what a consumer must know to feed it (transform, tokenizer) and whose
weights it holds (fingerprint), so that a program with onnxruntime and no torch gets the same answer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tbps_cli.errors import MissingExtra, TbpsError
from tbps_cli.methods.base import Method
from tbps_cli.models.onnx_graph import import_onnxruntime

OPSET = 20
MAX_BATCH = 4096
"""Rows that a graph takes at a time, at most."""
SHORTEST = 3
"""Tokens of a row of any length, at least: start, a word, end."""
SAME_ROW = 1e-5
"""Largest |difference| of an entry between the rows of captions with and without their padding."""
QUANTISED = ["MatMul", "Gemm", "Gather"]
"""The operations whose weights become int8; Gather is the table of tokens."""
IMAGE, TEXT = "image.onnx", "text.onnx"
"""File names of the two graphs; their weights lie beside them in `.onnx.data`."""


class _Images(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, image: Tensor) -> Tensor:
        return self.method.encode_images(image)


class _Texts(nn.Module):
    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, tokens: Tensor) -> Tensor:
        return self.method.encode_texts(tokens)


def write_graphs(
    method: Method,
    folder: Path,
    image_BCHW: Tensor,
    token_BT: Tensor,
    metadata: Mapping[str, Any],
    *,
    any_length: bool = False,
) -> None:
    """Write both graphs into `folder`. The examples give shapes only; the batch stays free.

    metadata: JSON-able values, kept in each graph under the key `tbps`.
    any_length: captions may be cut after the longest of a batch, where that leaves the rows as they are.
    Raises MissingExtra without onnx or onnxscript, TbpsError when PyTorch cannot trace a tower.
    """
    method = _plain(method)
    _write(_Images(method), image_BCHW.cpu(), "image", folder / IMAGE, metadata)
    texts, path = _Texts(method), folder / TEXT
    if any_length:
        with contextlib.suppress(TbpsError):
            _write(texts, token_BT.cpu(), "tokens", path, metadata, any_length=True)
            if _is_blind_to_padding(path, token_BT.cpu().numpy()):
                return
    _write(texts, token_BT.cpu(), "tokens", path, metadata)


def _is_blind_to_padding(path: Path, token_BT: NDArray[np.int64]) -> bool:
    """Whether a text graph gives the same rows without what follows the longest caption."""
    session = import_onnxruntime("tbps export").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    cut_BT = np.ascontiguousarray(token_BT[:, : int(token_BT.argmax(axis=1).max()) + 1])
    whole_BE, row_BE = (session.run(None, {"tokens": given})[0] for given in (token_BT, cut_BT))
    return float(np.abs(whole_BE - row_BE).max()) <= SAME_ROW


def write_text_graph(method: Method, path: Path, token_BT: NDArray[np.int64], *, any_length: bool) -> None:
    """Write the text tower alone, in the form in which onnxruntime opens it soonest.

    any_length: rows may be shorter than the longest (causal towers), where PyTorch can trace that.
    Raises as `write_graphs`.
    """
    tower, example = _Texts(_plain(method)), torch.from_numpy(token_BT)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole = Path(folder) / path.name
        try:
            _export(tower, example, "tokens", whole, any_length=any_length, optimise=False)
        except TbpsError:
            if not any_length:
                raise
            _export(tower, example, "tokens", whole, any_length=False, optimise=False)
        _fold(whole, path)


def _fold(graph: Path, folded: Path) -> None:
    """Let onnxruntime write what it makes of a graph when it opens it: its constants computed, its weights apart."""
    onnxruntime = import_onnxruntime("keeping a text tower")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folded)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{folded.name}.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own
        raise TbpsError(f"onnxruntime cannot open the graph: {error}") from error


def _plain(method: Method) -> Method:
    """The method in float32 on the CPU; a copy when it is not so already, since it may be in use."""
    state = method.state_dict().values()
    plain = all(tensor.device.type == "cpu" and tensor.dtype != torch.float16 for tensor in state)
    return method.eval() if plain else copy.deepcopy(method).eval().float().cpu()


def _write(
    tower: nn.Module, example: Tensor, name: str, path: Path, metadata: Mapping[str, Any], *, any_length: bool = False
) -> None:
    _export(tower, example, name, path, any_length=any_length)
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    onnx.helper.set_model_props(graph, {"tbps": json.dumps(metadata, sort_keys=True)})
    onnx.save(graph, str(path))


def _export(
    tower: nn.Module, example: Tensor, name: str, path: Path, *, any_length: bool = False, optimise: bool = True
) -> None:
    try:
        import onnx  # noqa: F401  (torch.onnx needs both and says so less clearly)
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtra("onnx and onnxscript", "export", "tbps export --format onnx") from None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _traced(tower, example, name, any_length=any_length),
            (),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=[f"{path.stem}_embedding"],
            external_data=True,
            verbose=False,
            optimize=optimise,
        )


def _traced(tower: nn.Module, example: Tensor, name: str, *, any_length: bool) -> torch.export.ExportedProgram:
    """The tower as operations. Left to itself, torch.onnx would fall back to a fixed batch without a word."""
    free = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    if any_length:
        free[1] = torch.export.Dim("length", min=SHORTEST, max=example.shape[1])
        example = example[:, :-1].contiguous()  # no length that the tower knows by itself
    try:
        return torch.export.export(tower, (example,), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # the tracer raises whatever the traced code ran into
        reason = str(error).strip().splitlines()[0]
        raise TbpsError(
            f"export: PyTorch could not turn the {name} tower into a graph: {reason}",
            "Use --format safetensors, and please report this with the output of `tbps doctor`.",
        ) from error


def quantise(folder: Path) -> None:
    """Replace both graphs by their int8 form, in place: weights per channel, activations by what they are given.

    Convolutions stay in fp32: onnxruntime's int8 ones took four times as long on a CPU with VNNI.
    """
    import_onnxruntime("tbps export --quantize int8")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name in (IMAGE, TEXT):
        path, small = folder / name, folder / f"int8-{name}"
        properties = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
        with _silent():
            quantize_dynamic(
                str(path), str(small), weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=QUANTISED
            )
        graph = onnx.load(str(small))
        onnx.helper.set_model_props(graph, properties)
        onnx.save(graph, str(small))
        path.with_name(name + ".data").unlink(missing_ok=True)
        small.replace(path)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the advice that onnxruntime gives to the root logger, which no user can follow."""
    root, nobody = logging.getLogger(), logging.NullHandler()
    before = root.level
    root.addHandler(nobody)  # else its first line would give the root logger a handler, which repeats all of ours
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(before)
        root.removeHandler(nobody)
