"""The command line of `scripts/campaign`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from campaigns import children, clock, damage, disk, hostile, inputs, kills, page
from campaigns.trials import Ledger, run_all
from campaigns.workshop import workshop

PARTS = {
    "kills": kills.trials,
    "inputs": inputs.trials,
    "hostile": hostile.trials,
    "damage": damage.trials,
    "disk": disk.trials,
    "clock": clock.trials,
}
STATE = Path("build/campaign.jsonl")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/campaign", description=children.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="a few of each")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=", ".join(PARTS))
    parser.add_argument("--state", type=Path, help=f"what was done; default {STATE}, none with --short")
    parser.add_argument(
        "--page", type=Path, help="write the table into this page; default docs/reliability.md when long"
    )
    asked = parser.parse_args()
    names = asked.only.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; parts: {', '.join(PARTS)}")
    # Of a fork after torch was imported: nothing has computed yet, so no thread is lost.
    warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
    children.import_everything()
    state = asked.state or (Path(os.devnull) if asked.short else STATE)
    ledger = Ledger(state, asked.seed)
    with workshop() as place:
        trials = [trial for name in names for trial in PARTS[name](place, asked.short)]
        faults = run_all(trials, ledger, lambda text: print(text, flush=True))
    if asked.page or not asked.short:
        page.write(asked.page or page.PAGE, ledger)
    print(page.table(ledger))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
