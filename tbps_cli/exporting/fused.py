"""The transform as a part of the image graph (`--fused`): uint8 images of any size in, unit rows out.

The resize is written out as products of whole numbers in float64, with Pillow's weights (22 bits) and its rounding
after each of the two passes, so that values are Pillow's to the bit. ONNX's `Resize` with `antialias` is not used: of
onnxruntime 1.32, with uint8, single values come out one grey level beside Pillow's, which is 0.015 after normalising,
and with float32 up to 20 levels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tbps_cli.augment.transform import EvalTransform, Resample
from tbps_cli.data.images import read_image, to_rgb
from tbps_cli.models.onnx_graph import Graph, import_onnxruntime

INPUT = "uint8 [B, H, W, 3], RGB, upright, of any size, one size a batch"
"""What the graph takes, as the manifest says it."""
IR, OPSETS = 10, {"": 20}
"""Versions of ONNX, where nobody says which."""
PREFIX = "transform."
"""Of the names of what stands before the tower."""

TOLERANCE = 1e-3
"""Largest |difference| of a prepared value, and of an entry of a unit row."""
BITS = 22
"""Of Pillow's weights for 8-bit images."""
SIZES = (1, 1), (7, 5), (61, 200), (300, 900), (767, 333)
"""Height and width of noise that is tried beside the images."""

PREPARE = """
<ir_version: {ir}, opset_import: [{opsets}]>
prepare (uint8[batch, height, width, 3] pixels) => (float[batch, 3, {height}, {width}] prepared)
<int64[2] wanted = {{{height}, {width}}}, float white = {{255}},
 float[1, 3, 1, 1] mean = {{{mean}}}, float[1, 3, 1, 1] std = {{{std}}}>
{{
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    sides = Shape <start = 2> (planes)
    equal = Equal (sides, wanted)
    as_number = Cast <to = 6> (equal)
    least = ReduceMin <keepdims = 0> (as_number)
    as_it_is = Cast <to = 9> (least)
    levels = If (as_it_is) <
        then_branch = kept () => (float[batch, 3, {height}, {width}] kept_levels) {{
            kept_levels = Cast <to = 1> (planes)
        }},
        else_branch = resized () => (float[batch, 3, {height}, {width}] resized_levels)
        <double zero = {{0}}, double half = {{0.5}}, double one = {{1}}, double most = {{255}}, int64[1] axes = {{1}},
         double unit = {{{unit}}}, double[{width}, 1] middle_w = {{{middle_w}}}, double wanted_w = {{{width}}},
         double[{height}, 1] middle_h = {{{middle_h}}}, double wanted_h = {{{height}}},
         int64 first = {{0}}, int64 second = {{1}}, int64 none = {{0}}, int64 twice = {{2}}{constants}>
        {{
            wide = Cast <to = 11> (planes)
            {weights_h}
            {weights_w}
            turned = Transpose <perm = [1, 0]> (fixed_w)
            fewer = Sub (sides, wanted)
            fewer_h = Gather <axis = 0> (fewer, first)
            fewer_w = Gather <axis = 0> (fewer, second)
            doubled_w = Mul (fewer_w, twice)
            less_high = Greater (fewer_h, none)
            much_less_high = Greater (fewer_h, doubled_w)
            rows_first = And (less_high, much_less_high)
            done = If (rows_first) <
                then_branch = vertical () => (double[batch, 3, {height}, {width}] vertical_levels) {{
                    sum_1 = MatMul (fixed_h, wide)
                    {round_1}
                    sum_2 = MatMul (rounded_1, turned)
                    {round_2}
                    vertical_levels = Identity (rounded_2)
                }},
                else_branch = horizontal () => (double[batch, 3, {height}, {width}] horizontal_levels) {{
                    sum_3 = MatMul (wide, turned)
                    {round_3}
                    sum_4 = MatMul (fixed_h, rounded_3)
                    {round_4}
                    horizontal_levels = Identity (rounded_4)
                }}
            >
            resized_levels = Cast <to = 1> (done)
        }}
    >
    part = Div (levels, white)
    centred = Sub (part, mean)
    prepared = Div (centred, std)
}}
"""
"""Pillow's resize, then the transform's own steps in their order; an image of the right size is not resized.

Since version 13 Pillow begins with the rows of images that lose more than twice as many rows as columns.
"""

WEIGHTS = """
            length_{x} = Gather <axis = 0> (sides, {which})
            given_{x} = Cast <to = 11> (length_{x})
            scale_{x} = Div (given_{x}, wanted_{x})
            reach_{x} = Max (scale_{x}, one)
            centre_{x} = Mul (middle_{x}, scale_{x})
            place_{x} = Range (zero, given_{x}, one)
            apart_{x} = Sub (place_{x}, centre_{x})
            middles_{x} = Add (apart_{x}, half)
            shrink_{x} = Div (one, reach_{x})
            signed_{x} = Mul (middles_{x}, shrink_{x})
            far_{x} = Abs (signed_{x})
            {kernel}
            whole_{x} = ReduceSum <keepdims = 1> (weight_{x}, axes)
            share_{x} = Div (weight_{x}, whole_{x})
            scaled_{x} = Mul (share_{x}, unit)
            size_{x} = Abs (scaled_{x})
            more_{x} = Add (size_{x}, half)
            number_{x} = Floor (more_{x})
            sign_{x} = Sign (scaled_{x})
            fixed_{x} = Mul (number_{x}, sign_{x})"""
ROUND = """
            pixels_{x} = Div (sum_{x}, unit)
            nearest_{x} = Add (pixels_{x}, half)
            floor_{x} = Floor (nearest_{x})
            rounded_{x} = Clip (floor_{x}, zero, most)"""
KERNELS: dict[Resample, str] = {
    "bilinear": """
            inside_{x} = Sub (one, far_{x})
            weight_{x} = Max (inside_{x}, zero)""",
    "bicubic": """
            near_1_{x} = Mul (far_{x}, a_plus_2)
            near_2_{x} = Sub (near_1_{x}, a_plus_3)
            near_3_{x} = Mul (near_2_{x}, far_{x})
            near_4_{x} = Mul (near_3_{x}, far_{x})
            near_{x} = Add (near_4_{x}, one)
            out_1_{x} = Sub (far_{x}, five)
            out_2_{x} = Mul (out_1_{x}, far_{x})
            out_3_{x} = Add (out_2_{x}, eight)
            out_4_{x} = Mul (out_3_{x}, far_{x})
            out_5_{x} = Sub (out_4_{x}, four)
            out_{x} = Mul (out_5_{x}, a)
            is_near_{x} = Less (far_{x}, one)
            is_out_{x} = Less (far_{x}, two)
            beyond_{x} = Where (is_out_{x}, out_{x}, zero)
            weight_{x} = Where (is_near_{x}, near_{x}, beyond_{x})""",
}
CUBIC = """, double a = {-0.5}, double a_plus_2 = {1.5}, double a_plus_3 = {2.5}, double two = {2}, double four = {4},
         double five = {5}, double eight = {8}"""


@dataclass(frozen=True)
class FusedAgreement:
    """How far the graph that takes images as they are is from the model behind Pillow's transform."""

    pixel_difference: float
    """Largest |difference| of a prepared value."""
    image_difference: float
    """Largest |difference| of an entry of a unit row."""
    images: int
    """How many were tried."""
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        return max(self.pixel_difference, self.image_difference) <= self.tolerance

    def sentence(self) -> str:
        """As the card and the command have it."""
        return (
            f"image.onnx takes images as they are ({INPUT}). On {self.images} of many sizes, prepared values differ by "
            f"up to {self.pixel_difference:.1e} from the transform's and embeddings by up to "
            f"{self.image_difference:.1e}; allowed: {self.tolerance:.0e}"
        )

    def document(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return {"input": INPUT, **vars(self), "holds": self.holds}


def fuse(path: Path, out: Path, transform: EvalTransform) -> None:
    """Write an image graph with the transform before it: it takes uint8 [B, H, W, 3] as `pixels`.

    out: beside `path`, whose weights it shares.
    """
    import onnx

    tower = onnx.load(str(path), load_external_data=False)
    before = preparation(transform, tower.ir_version, {one.domain: one.version for one in tower.opset_import})
    _prefix(before.graph)
    (taken,) = tower.graph.input
    before.graph.node[-1].output[0] = taken.name  # what the transform has made is what the tower takes
    nodes, values = [*before.graph.node, *tower.graph.node], [*before.graph.initializer, *tower.graph.initializer]
    for field, content in (("node", nodes), ("initializer", values), ("input", before.graph.input)):
        kept = list(content)
        tower.graph.ClearField(field)
        getattr(tower.graph, field).extend(kept)
    for entry in tower.metadata_props:
        if entry.key == "tbps":
            entry.value = json.dumps({**json.loads(entry.value), "fused": {"input": INPUT}}, sort_keys=True)
    onnx.save(tower, str(out))


def compare_fused(
    encode: Callable[[Sequence[Image.Image]], NDArray[np.float32]],
    transform: EvalTransform,
    path: Path,
    images: Sequence[str | Path | Image.Image],
) -> FusedAgreement:
    """The fused graph on images as they are, and on noise of many sizes, beside what `encode` makes of them."""
    onnxruntime, graph = import_onnxruntime("tbps export --fused"), Graph(path)
    before = preparation(transform).SerializeToString()
    prepare = onnxruntime.InferenceSession(before, providers=["CPUExecutionProvider"])
    pixels = rows = 0.0
    count = 0
    for image in _tried(images, transform.size):
        given_BHWC = np.asarray(image)[None]
        found_CHW = prepare.run(None, {prepare.get_inputs()[0].name: given_BHWC})[0][0]
        pixels = max(pixels, _apart(found_CHW, transform(image)))
        rows = max(rows, _apart(graph(given_BHWC)[0], encode([image])[0]))
        count += 1
    return FusedAgreement(pixels, rows, count)


def _tried(images: Sequence[str | Path | Image.Image], size: tuple[int, int]) -> Iterator[Image.Image]:
    for image in images:
        yield read_image(Path(image)) if isinstance(image, str | Path) else to_rgb(image)
    rng = np.random.default_rng(0)
    for sides in (*SIZES, size, (size[0], 2 * size[1]), (2 * size[0], size[1])):
        yield Image.fromarray(rng.integers(0, 256, (*sides, 3), np.uint8))


def _apart(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest |difference|; a NaN counts as an infinite one."""
    return float(np.abs(found - expected).max()) if np.isfinite(found).all() else float("inf")


def preparation(transform: EvalTransform, ir: int = IR, opsets: Mapping[str, int] = OPSETS) -> Any:
    """The transform as an ONNX model of its own: uint8 [B, H, W, 3] -> float32 [B, 3, h, w], for every H and W."""
    import onnx.parser

    def weights(x: str, which: str) -> str:
        kernel = KERNELS[transform.resample].format(x=x)
        return WEIGHTS.format(x=x, which=which, kernel=kernel)

    height, width = transform.size
    text = PREPARE.format(
        ir=ir,
        opsets=", ".join(f'"{domain}" : {version}' for domain, version in opsets.items()),
        height=height,
        width=width,
        mean=_listed(np.array(transform.mean, np.float32)),
        std=_listed(np.array(transform.std, np.float32)),
        middle_h=_listed(np.arange(height) + 0.5),
        middle_w=_listed(np.arange(width) + 0.5),
        constants=CUBIC if transform.resample == "bicubic" else "",
        weights_w=weights("w", "second"),
        weights_h=weights("h", "first"),
        unit=2**BITS,
        **{f"round_{step}": ROUND.format(x=step) for step in range(1, 5)},
    )
    model = onnx.parser.parse_model(text)
    onnx.checker.check_model(model)
    return model


def _prefix(graph: Any) -> None:
    """Names that no tower has, for all values but the input, in branches too (where `onnx.compose` leaves some out)."""
    for part in (*graph.initializer, *graph.output):
        part.name = PREFIX + part.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name == "pixels" else PREFIX + name for name in names]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _prefix(attribute.g)


def _listed(values: NDArray[Any]) -> str:
    return ", ".join(repr(float(value)) for value in values)
