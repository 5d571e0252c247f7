"""Whole training steps: ours beside the usual way, share of the chip's peak, where the time goes, memory, the estimate.

scripts/bench train [--device cpu|cuda] [--recipe NAME] [--batch N] [--steps N] [--middle | --full]
                    [--usual PRECISION]... [--no-usual] [--set KEY=VALUE]...

The same parts as `tbps train` on images of CUHK-PEDES' sizes, drawn into a temporary folder and decoded before.
On the CPU the towers are tiny (3 layers of 128) unless --middle (6 of 256) or --full. First a number of steps as they
are, for the speed; then as many with a wait after every phase, for where the time goes. The work of a step is counted
by PyTorch's flop counter; on a CPU it is compared with what large products reach in float32 in the same minutes. For a
recipe with frozen towers the backward pass is timed again with everything trained.

Then the usual way (`_usual.py` says what that is, and what it leaves out) beside ours, on the same weights, in
alternating rounds: with each its own data, and on one batch in memory. That both do the same is checked first: on
one batch in float32 their losses agree within 1e-4 of their size, and so does the length of the gradient. In
the rounds ours computes as the recipe resolves (bf16 on CUDA), and once more in bf16 where the processor has it; the
usual way as --usual says: fp32 (without TF32), fp16 (autocast), or fp16-pure, half weights as IRRA's released code has
them. Tiny towers flatter us where a cost does not shrink with them, the scores over the whole vocabulary before all:
the ratio to quote is that of --full, which on a CPU takes minutes and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

# at the end: a benchmark here bears the name of a standard module
from benchmarks import _beside, _machine, _usual, data

from tbps_cli import distributed
from tbps_cli.data.open import open_dataset
from tbps_cli.engine import estimate, optim
from tbps_cli.engine.components import to_device
from tbps_cli.engine.experiment import Options, prepare
from tbps_cli.engine.kept_memory import freed_memory_kept
from tbps_cli.engine.step import Stepper
from tbps_cli.prepare.decode import build_store
from tbps_cli.recipe.load import load
from tbps_cli.types import Batch, Step

TINY = {"width": 128, "layers": 3, "embed": 128, "text_width": 128, "text_layers": 3}
TINY |= {"patch": 16, "heads": 2, "text_heads": 2}
MIDDLE = {"width": 256, "layers": 6, "embed": 256, "text_width": 256, "text_layers": 6}
MIDDLE |= {"patch": 16, "heads": 4, "text_heads": 4}
WORDS = ["the", "man", "woman", "wears", "red", "blue", "striped", "long", "shirt", "jeans", "shoes", "carries", "bag"]


def write_set(root: Path, pairs: int, size: tuple[int, int]) -> Path:
    """A decoded data set in CUHK-PEDES' layout whose captions have its lengths: 23.5 words on average."""
    rng, records, folder = np.random.default_rng(0), [], root / "CUHK-PEDES" / "imgs"
    folder.mkdir(parents=True)
    for number in range(pairs + 4):
        name = f"{number}.{data.SHAPES[number % len(data.SHAPES)][2]}"
        data.draw_image(rng, number).save(folder / name)
        words = np.clip(np.rint(rng.lognormal(np.log(23.5) - 0.33**2 / 2, 0.33)), 12, 96)
        caption = " ".join(rng.choice(WORDS, int(words)))
        split = "train" if number < pairs else ("val", "test")[number % 2]
        record = {"split": split, "id": number // 2 + 1, "file_path": name, "captions": [caption]}
        records.append(record)
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")
    made = open_dataset("cuhk-pedes", root).split("train")
    build_store(made.root, made.paths, size)
    return root


class Bench:
    """A method under training, as `tbps train` sets it up."""

    def __init__(self, root: Path, recipe: str, device: str, sets: Sequence[str], tower: dict[str, int] | None) -> None:
        tables = [f"method.tower.{key}={value}" for key, value in (tower or {}).items()]
        plan = load(recipe, ["data.name=cuhk-pedes", "method.weights=random", *tables, *sets])
        self.parts = prepare(plan, Options(data_root=root, out=root / "run", device=device))
        self.method = self.parts.method
        to_device(self.method, self.parts.device)
        self.recipe, self.device = self.parts.recipe, self.parts.device
        optimizer = optim.build(self.method, self.recipe.optim)
        self.stepper = Stepper(self.method, optimizer, train=self.recipe.train, clip_norm=self.recipe.optim.clip_norm)
        self.method.train()
        self.batches = self.forever()

    def restart(self) -> None:
        """Begin again with the batches, in new worker processes."""
        self.batches.close()
        self.parts.loader.close()
        self.batches = self.forever()

    def forever(self) -> Generator[Batch]:
        """Whole batches, epoch after epoch."""
        epoch = 0
        while True:
            for batch in self.parts.loader.epoch(epoch):
                if len(batch) * distributed.current().world == self.recipe.train.batch:
                    yield batch
            epoch += 1

    def step(self) -> None:
        self.stepper([next(self.batches)], Step())

    def seconds(self, steps: int) -> float:
        """A step, as training takes it; the median of steps on the CPU, the mean on CUDA, which runs ahead."""
        marks = [time.perf_counter()]
        for _ in range(steps):
            self.step()
            if self.device.type == "cpu":
                marks.append(time.perf_counter())
        _machine.wait(self.device)
        if self.device.type == "cpu":
            return statistics.median(np.diff(marks).tolist())
        return (time.perf_counter() - marks[0]) / steps

    def flops(self) -> float:
        """Of one step, forward and backward, multiplications and additions counted apart."""
        batch = next(self.batches).to(self.device)
        # the counter does not know the CPU's fused attention
        with _usual.plain_attention() if self.device.type == "cpu" else nullcontext():
            found = _machine.flops(lambda: self.stepper.backward(batch, Step()))
        self.stepper.optimizer.zero_grad(set_to_none=True)
        return found

    def phases(self, steps: int) -> dict[str, float]:
        """Seconds a step in each phase, the device waited for at the end of each."""
        spent: dict[str, list[float]] = defaultdict(list)
        for _ in range(steps):
            found: dict[str, float] = defaultdict(float)
            with watched(self, found):
                started = time.perf_counter()
                batch = next(self.batches)
                _machine.wait(self.device)
                found["data"] = time.perf_counter() - started
                self.stepper([batch], Step())
                _machine.wait(self.device)
            found["rest"] = time.perf_counter() - started - sum(found.values())
            for name, value in found.items():
                spent[name].append(value)
        return {name: statistics.median(values) for name, values in spent.items()}


@contextmanager
def watched(bench: Bench, found: dict[str, float]) -> Iterator[None]:
    """Measure the parts of a step by wrapping the functions that do them."""
    places: list[tuple[Any, str, str]] = [
        (bench.method, "features", "forward"),
        (bench.method, "losses", "losses"),
        (torch.Tensor, "backward", "backward"),
        (distributed, "gather", "gather"),
        (distributed, "average_gradients", "gather"),
        (bench.stepper.optimizer, "step", "optimiser"),
    ]
    before = [(place, name, place.__dict__.get(name)) for place, name, _ in places]
    for place, name, label in places:
        setattr(place, name, timed(getattr(place, name), label, found, bench.device))
    try:
        yield
    finally:
        for place, name, old in before:
            if old is None:
                delattr(place, name)
            else:
                setattr(place, name, old)


def timed(work: Callable[..., Any], label: str, found: dict[str, float], device: torch.device) -> Callable[..., Any]:
    def measured(*given: Any, **named: Any) -> Any:
        _machine.wait(device)
        started = time.perf_counter()
        result = work(*given, **named)
        _machine.wait(device)
        found[label] += time.perf_counter() - started
        return result

    return measured


def peak(bench: Bench) -> int:
    """Most bytes of tensors during a step: the device's own count, or on the CPU every allocation as it happens."""
    if bench.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(bench.device))
    standing = [*bench.method.parameters(), *bench.method.buffers()]
    for kept in bench.stepper.optimizer.state.values():
        standing += [value for value in kept.values() if isinstance(value, torch.Tensor)]
    batch = next(bench.batches)
    return _machine.most_bytes(bench.device, lambda: bench.stepper([batch], Step()), standing)


def measure(bench: Bench, steps: int) -> dict[str, Any]:
    """Everything that is printed."""
    first = next(bench.batches)
    probed = estimate.probe(bench.stepper, first)
    train = bench.recipe.train
    rows = min(train.chunk or train.batch, train.batch)
    told = estimate.memory(bench.method, bench.recipe.optim.kind, probed, rows)
    expected = told.total - told.program  # what is measured are tensors, not what Python and PyTorch hold besides
    guess = probed.seconds(train.batch)
    cpu = bench.device.type == "cpu"
    with freed_memory_kept(cpu):
        bench.seconds(2)  # the optimiser's numbers are made, kernels chosen
        if not cpu:
            torch.cuda.reset_peak_memory_stats(bench.device)
        products = [_machine.product_rate()] if cpu else []
        step = bench.seconds(steps)
        products += [_machine.product_rate()] if cpu else []
    return {
        "step": step,
        "products": max(products, default=None),
        "peak": peak(bench),
        "flops": bench.flops(),
        "expected": expected,
        "guess": guess,
        "phases": bench.phases(max(2, steps // 2)),
    }


def report(bench: Bench, found: dict[str, Any]) -> None:
    train, step = bench.recipe.train, found["step"]
    total = sum(parameter.numel() for parameter in bench.method.parameters())
    trained = sum(parameter.numel() for parameter in bench.stepper.parameters)
    print(
        f"{bench.recipe.name}: {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained; {train.precision}, ",
        end="",
    )
    print(f"batch {train.batch}, {bench.recipe.data.image_size}, augment_on {bench.recipe.data.augment_on}")
    pairs = _machine.rate(train.batch / step)
    print(f"a step {1000 * step:.1f} ms, {pairs} pairs/s, {found['flops'] / 1e12:.3f} TFLOP", end="")
    most = _machine.peak_flops() if bench.device.type == "cuda" else found["products"]
    of = "bf16 peak" if bench.device.type == "cuda" else "the rate of large products in float32"
    print(f", {100 * found['flops'] / step / most:.1f} % of {of}" if most else "")
    print(f"CUHK-PEDES (68,126 pairs): {68126 / train.batch * step:,.0f} s an epoch")
    whole = sum(found["phases"].values())
    shares = [f"{name} {100 * value / whole:.0f} %" for name, value in found["phases"].items()]
    print(f"where the time goes: {', '.join(shares)}")
    print(
        f"peak memory of tensors {found['peak'] / 2**20:,.0f} MB, estimated {found['expected'] / 2**20:,.0f} MB", end=""
    )
    print(f" ({100 * (found['expected'] / found['peak'] - 1):+.0f} %)")
    print(
        f"time of a step, estimated before: {1000 * found['guess']:.1f} ms ({100 * (found['guess'] / step - 1):+.0f} %)"
    )


def beside(bench: Bench, precisions: Sequence[str], steps: int) -> None:
    """The usual way and ours in alternating rounds, after a look whether they do the same."""
    refused = _usual.refusal(bench.parts) if precisions else None
    if refused:
        print(f"no usual way to compare with: {refused}")
    if refused or not precisions:
        return
    losses, gradient = _beside.first_step(bench)
    print(f"first step, ours beside the usual: losses differ by {losses:.1e}, the gradient's length by {gradient:.1e}")
    assert max(losses, gradient) < _beside.SAME, "the two ways do not do the same"
    rounds = min(5, steps)
    for precision in precisions:
        _beside.report(bench, precision, rounds, 1 if bench.device.type == "cpu" else max(1, steps // rounds))


def compare_frozen(bench: Bench, steps: int) -> None:
    """What freezing saves: the backward pass and the kept activations, against everything trained."""
    frozen = [parameter for parameter in bench.method.parameters() if not parameter.requires_grad]
    if not frozen:
        return
    figures = []
    for trained in (False, True):
        for parameter in frozen:
            parameter.requires_grad_(trained)
        found = bench.phases(steps)
        kept = estimate.probe(bench.stepper, next(bench.batches)).bytes_per_pair
        figures.append((found["backward"], kept))
        for parameter in frozen:
            parameter.grad = None
    (time_frozen, kept_frozen), (time_all, kept_all) = figures
    print(f"frozen towers: backward {time_all / time_frozen:.2f} times as long with everything trained, ", end="")
    print(f"activations {kept_all / kept_frozen:.2f} times as many ({kept_frozen / 2**20:.1f} MB a pair frozen)")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="irra")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--batch", type=int, default=None, help="16 on the CPU (4 with --full), the recipe's own on cuda"
    )
    parser.add_argument("--steps", type=int, default=None, help="10 on the CPU (1 with --full), 60 on cuda")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the recipe's own towers on the CPU too")
    size.add_argument("--middle", action="store_true", help="6 layers of 256 on the CPU")
    parser.add_argument(
        "--usual", action="append", choices=_usual.PRECISIONS, help="fp32 on the CPU, fp32 and fp16-pure on cuda"
    )
    parser.add_argument("--no-usual", action="store_true", help="ours alone")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    options = parser.parse_args(argv)
    cpu = options.device == "cpu"
    steps = options.steps or ((1 if options.full else 10) if cpu else 60)
    batch = options.batch or ((4 if options.full else 16) if cpu else None)
    usual = [] if options.no_usual else options.usual or (["fp32"] if cpu else ["fp32", "fp16-pure"])
    sets = [*options.sets, *([f"train.batch={batch}"] if batch else [])]
    tower = None if options.full else MIDDLE if options.middle else TINY
    print(_machine.line(options.device))
    with tempfile.TemporaryDirectory() as folder:
        pairs = 4 * (batch or load(options.recipe).train.batch)
        root = write_set(Path(folder), pairs, (384, 128))
        bench = Bench(root, options.recipe, options.device, sets, tower if cpu else None)
        report(bench, measure(bench, steps))
        beside(bench, usual, steps)
        compare_frozen(bench, max(3, steps // 2))
        bench.parts.loader.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
