"""What an installation takes: tbps-lite beside rclip, each in a fresh environment, in one run.

scripts/bench install [--whole] [--only WORD] [--cached]

Packages come from the index that pip is set to. Each environment is made with `python -m venv`, and everything is
removed at the end. MB is what the files take on the disk, pip included; packages are those that pip lists, without
itself and setuptools. --whole also installs `tbps` with PyTorch, as the index gives it (on PyPI with CUDA, some GB).
--cached lets pip use what it downloaded before; seconds depend on the network unless all of it is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.scaling import table

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {"pip", "setuptools", "wheel"}


class Installed(NamedTuple):
    megabytes: float
    packages: int
    seconds: float


def disk(folder: Path) -> float:
    """Bytes that the files of a folder take on the disk; links are not followed."""
    return sum(512.0 * path.lstat().st_blocks for path in folder.rglob("*"))


def installed(what: Sequence[str], *, cached: bool) -> Installed:
    """Install into a fresh environment. Raises SystemExit with pip's last lines where that fails."""
    with tempfile.TemporaryDirectory(prefix="tbps-install-") as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        options = ["--quiet", "--no-compile", *([] if cached else ["--no-cache-dir"])]
        began = time.monotonic()
        done = subprocess.run([*pip, "install", *options, *what], capture_output=True, text=True)
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(what)}: {done.stderr.strip()[-600:]}")
        listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
        names = {line.partition("=")[0].partition(" ")[0].lower() for line in listed.splitlines()}
        return Installed(disk(Path(folder)) / 2**20, len(names - TOOLS), seconds)


def ways(*, whole: bool) -> dict[str, list[str]]:
    """Name -> what pip is given, the rival first."""
    found = {"rclip": ["rclip"], "tbps-lite": [str(ROOT / "lite")], "tbps-lite[serve]": [f"{ROOT / 'lite'}[serve]"]}
    return found | ({"tbps": [str(ROOT)]} if whole else {})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="tbps with PyTorch too")
    parser.add_argument("--only", metavar="WORD", default="", help="ways whose names hold this word")
    parser.add_argument("--cached", action="store_true", help="use what pip has downloaded before")
    options = parser.parse_args(argv)
    rows, first = [], None
    for name, what in ways(whole=options.whole).items():
        if options.only not in name:
            continue
        one = installed(what, cached=options.cached)
        first = first or one
        ratio = f"{first.megabytes / one.megabytes:.2f}"
        rows.append([name, f"{one.megabytes:.0f}", str(one.packages), f"{one.seconds:.0f}", ratio])
    table(["what", "MB", "packages", "seconds", "times as small as the first"], rows)


if __name__ == "__main__":
    main()
