"""Golden folders against this code: every figure is compared, skipped for a stated reason, or a FAIL.

A golden folder holds what a published implementation computed from small random weights. `run(DIR)`
walks it (sub-folders with a config.json of their own are checked as folders of their own), asks the
adapter of the method, and returns a `Report` with one plain line a figure:

    name  max|Δ|  tolerance  ok          or  ... FAIL          or  skip  name  reason

How to write an adapter: one module `tests/parity/METHOD.py` with one function

    def check(golden: Golden) -> None:
        method = tools.load(...)                                     # config.json -> the class users run
        golden.outputs.check("image_features", method.features(...)["image"])
        optim = golden.file("optim.json")                            # any further file
        tools.groups(optim, "groups", method, section)
        optim.use("note")                                            # an input or a remark, nothing to compare

METHOD is `method` of config.json; `tbps_clip_simplified` finds `tbps_clip` when it has no module of
its own. What an adapter needs to know:

* `golden.config`, `golden.weights`, `golden.inputs`: plain dictionaries, nothing to account for.
* `golden.outputs` and `golden.file(name)` are `Figures`: a figure is done once it was given to
  `check` (within a tolerance), `exact`, `skip` or `use`. `sub(name)` descends into a nested table.
* A figure that the folder does not have is passed over silently, so an adapter compares all it can.
  A figure or a file of the folder that nobody asked for is a FAIL at the end, and so is an exception.
* Tolerances default to 2e-5 absolute; `relative=True` divides by the largest expected entry (losses
  1e-5: `loss`; gradients 2e-5: `gradient`; half precision 2e-2: `half`). NaN is a FAIL on either side.
* `tools` has what several methods share: loading, gradients, steps, groups, schedules, tokens...
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

TOLERANCE = 2e-5
LOSS = 1e-5
HALF = 2e-2
GIVEN = {"config.json", "weights.safetensors", "inputs.safetensors"}
"""Files that are asked, not checked."""


@dataclass
class Report:
    """The lines of a check, in the order in which they were made."""

    show: Callable[[str], None] | None = None
    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def holds(self) -> bool:
        """Whether something was compared and nothing failed."""
        return self.compared > 0 and not self.failures

    def judge(self, name: str, difference: float, tolerance: float, why: str = "") -> None:
        """One comparison. A difference of NaN or above the tolerance fails."""
        good = difference <= tolerance
        self.compared += 1
        measured = f"{difference:.1e}{f' ({why})' if why else ''}"
        self._add(f"{name}  {measured}  {tolerance:.0e}  {'ok' if good else 'FAIL'}", failed=not good)

    def fail(self, name: str, why: str) -> None:
        self._add(f"{name}  {why}  -  FAIL", failed=True)

    def skip(self, name: str, reason: str) -> None:
        self._add(f"skip  {name}  {reason}", failed=False)

    def _add(self, line: str, *, failed: bool) -> None:
        self.lines.append(line)
        if failed:
            self.failures.append(line)
        if self.show:
            self.show(line)


class Figures:
    """The figures of one file (or of one table in it) and which of them are done."""

    def __init__(self, values: dict[str, Any], report: Report, prefix: str = "") -> None:
        self.values = values
        self.report = report
        self.prefix = prefix
        self.done: set[str] = set()
        self.tables: dict[str, Figures] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def starting(self, prefix: str) -> list[str]:
        """The names that begin so, in the order of the file, without the beginning."""
        return [name.removeprefix(prefix) for name in self.values if name.startswith(prefix)]

    def use(self, *names: str) -> Any:
        """Take figures as inputs or remarks. Returns the value of the last one."""
        self.done.update(names)
        return self.values[names[-1]]

    def use_all(self) -> dict[str, Any]:
        """Take the whole file as an input."""
        self.done.update(self.values)
        return self.values

    def sub(self, name: str) -> Figures:
        """A nested table, whose entries are accounted for one by one."""
        self.done.add(name)
        if name not in self.tables:
            self.tables[name] = Figures(self.values[name], self.report, f"{self.prefix}{name}.")
        return self.tables[name]

    def check(self, name: str, ours: Any, tolerance: float = TOLERANCE, *, relative: bool = False) -> None:
        """Compare numbers of any shape; `relative` to the largest expected entry."""
        if name not in self.values:
            return
        self.done.add(name)
        difference, why = distance(ours, self.values[name], relative=relative)
        self.report.judge(f"{self.prefix}{name}", difference, tolerance, why)

    def loss(self, name: str, ours: Any, tolerance: float = LOSS) -> None:
        """A loss: relative to its size."""
        self.check(name, ours, tolerance, relative=True)

    def gradient(self, name: str, ours: Any, tolerance: float = TOLERANCE) -> None:
        """A gradient: relative to its largest entry."""
        self.check(name, ours, tolerance, relative=True)

    def half(self, name: str, ours: Any, *, relative: bool = False) -> None:
        """A figure of a half-precision model."""
        self.check(name, ours, HALF, relative=relative)

    def exact(self, name: str, ours: Any) -> None:
        """Compare anything for equality: ids, names, words."""
        if name not in self.values:
            return
        self.done.add(name)
        equal = plain(ours) == plain(self.values[name])
        self.report.judge(f"{self.prefix}{name}", 0.0 if equal else float("inf"), 0.0, "" if equal else "differs")

    def skip(self, name: str, reason: str) -> None:
        """Leave a figure out, for a reason that the design allows."""
        if name in self.values:
            self.done.add(name)
            self.report.skip(f"{self.prefix}{name}", reason)

    def close(self) -> None:
        """Every figure that is not done fails."""
        for table in self.tables.values():
            table.close()
        for name in self.values:
            if name not in self.done:
                self.report.fail(f"{self.prefix}{name}", "an unknown figure: nothing compared it")


class Golden:
    """One golden folder. `place` is its path below the folder that was asked for."""

    def __init__(self, folder: Path, report: Report, place: str = "") -> None:
        self.folder = folder
        self.report = report
        self.place = place
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = self._given("weights.safetensors")
        self.inputs = self._given("inputs.safetensors")
        self._opened: dict[str, Figures] = {}

    @property
    def outputs(self) -> Figures:
        """The figures of outputs.safetensors."""
        return self.file("outputs.safetensors")

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def file(self, name: str) -> Figures:
        """The figures of any file, by its path in the folder; a list in JSON is the one figure `items`."""
        if name not in self._opened:
            path = self.folder / name
            values = load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())
            prefix = self.place + ("" if name == "outputs.safetensors" else f"{name}:")
            table = values if isinstance(values, dict) else {"items": values}
            self._opened[name] = Figures(table, self.report, prefix)
        return self._opened[name]

    def close(self) -> None:
        """Every figure and file that nothing asked for fails."""
        for figures in self._opened.values():
            figures.close()
        for name in self._files():
            if name not in GIVEN and name not in self._opened:
                self.report.fail(f"{self.place}{name}", "an unknown file: nothing read it")

    def _given(self, name: str) -> dict[str, Tensor]:
        path = self.folder / name
        return load_file(path) if path.is_file() else {}

    def _files(self) -> list[str]:
        own = [path.parent for path in self.folder.rglob("config.json") if path.parent != self.folder]
        return [
            path.relative_to(self.folder).as_posix()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and not set(path.parents) & set(own)
        ]


def distance(ours: Any, expected: Any, *, relative: bool = False) -> tuple[float, str]:
    """(largest difference, what else is wrong): inf for another shape, NaN where either has one."""
    mine, theirs = _numbers(ours), _numbers(expected)
    if mine.shape != theirs.shape:
        return float("inf"), f"shape {list(mine.shape)} for {list(theirs.shape)}"
    if not mine.numel():
        return 0.0, ""
    # equal infinities have no difference, not NaN
    difference = torch.where(mine == theirs, 0.0, (mine - theirs).abs()).max()
    scale = theirs.abs().max() if relative else torch.tensor(1.0)
    return float(difference / scale if scale > 0 else difference), ""


def _numbers(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu().to(torch.float64)


def plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists, all the way down."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def adapter(method: str) -> Callable[[Golden], None] | None:
    """The `check` of the module with the method's name, or with a beginning of it."""
    name = method
    while name:
        if importlib.util.find_spec(f"parity.{name}") is not None:
            found = getattr(importlib.import_module(f"parity.{name}"), "check", None)
            return found if name not in ("check", "tools") else None
        name = name.rpartition("_")[0]
    return None


def folders(directory: Path) -> list[Path]:
    """The golden folders at and below a directory."""
    return sorted(path.parent for path in directory.rglob("config.json"))


def run(directory: Path, show: Callable[[str], None] | None = None) -> Report:
    """Check a golden folder and its sub-folders. `show` gets each line as it is made."""
    report = Report(show)
    found = folders(directory)
    if not found:
        report.fail(str(directory), "no config.json here or below")
    for folder in found:
        place = folder.relative_to(directory).as_posix()
        _run_one(folder, report, "" if place == "." else f"{place}/")
    return report


def _run_one(folder: Path, report: Report, place: str) -> None:
    try:
        golden = Golden(folder, report, place)
        method = str(golden.config.get("method"))
        check = adapter(method)
        if check is None:
            report.fail(f"{place}config.json:method", f"no adapter for {method}")
            return
        check(golden)
        golden.close()
    except Exception as error:
        traceback.print_exc()
        report.fail(f"{place}adapter", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def main(arguments: list[str]) -> int:
    """`check_parity.py DIR...`: lines to stdout, 0 only when all hold."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: check_parity.py DIR...   (golden folders; sub-folders are included)", file=sys.stderr)
        return 0 if arguments else 2
    reports = []
    for argument in arguments:
        print(f"checking {argument}", file=sys.stderr)
        reports.append(run(Path(argument), print))
    compared, failed = sum(report.compared for report in reports), sum(len(report.failures) for report in reports)
    print(f"{compared} compared, {failed} failed", file=sys.stderr)
    return 0 if all(report.holds for report in reports) else 1
