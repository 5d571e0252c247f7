"""Kill trainings at random moments, resume them, and compare what they leave with a run in one go, bit by bit.

    .venv/bin/python scripts/kill_campaign.py [--kills 20] [--ranks 2] [METHOD...]

How the moments are drawn and what is compared stands in tests/support/kill_campaign.py; docs/kill-campaign.md shows a
result. Ends with status 1 when a run that was killed differs from one that was not.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # bits depend on the number of threads
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.kill_campaign import TABLE, campaign
from support.kills import METHODS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", metavar="METHOD", nargs="*", help=", ".join(METHODS))
    parser.add_argument("--kills", type=int, default=20, help="of each method")
    parser.add_argument("--ranks", type=int, default=1, help="processes of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    tell = partial(print, flush=True)
    records = [campaign(name, asked.kills, asked.ranks, asked.seed, tell=tell) for name in asked.methods or METHODS]
    print(TABLE, *(one.row() for one in records), sep="\n")
    return int(any(one.difference is not None for one in records))


if __name__ == "__main__":
    sys.exit(main())
