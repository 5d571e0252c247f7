"""The table of docs/reliability.md, between two marks; the rest of the page is written by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from campaigns.trials import Ledger, Result

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- campaign: written by scripts/campaign -->", "<!-- campaign: end -->"


def table(ledger: Ledger) -> str:
    """One row a group: how many, how many faults, what was seen."""
    groups: dict[tuple[str, str], Result] = {}
    for key, (result, _) in ledger.done.items():
        part, group, _ = key.rsplit("/", 2)
        sum_of = groups.setdefault((part, group), Result(seen=Counter()))
        sum_of.count += result.count
        sum_of.faults += result.faults
        sum_of.seen += result.seen
    lines = ["| part | what | tried | faults | seen |", "|---|---|---|---|---|"]
    for (part, group), result in groups.items():
        seen = ", ".join(f"{count:,} {what}" for what, count in sorted(result.seen.items()))
        lines.append(f"| {part} | {group} | {result.count:,} | {len(result.faults)} | {seen} |")
    total = sum(result.count for result in groups.values())
    lines.append(f"| all | together | {total:,} | {sum(len(result.faults) for result in groups.values())} | |")
    return "\n".join(lines)


def write(page: Path, ledger: Ledger) -> None:
    """Put the table in the place of the one that is there."""
    text = page.read_text("utf-8")
    before, found, rest = text.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not (found and also_found):
        raise ValueError(f"{page} has no place for the table: {BEGIN} and {END}")
    minutes = sum(seconds for _, seconds in ledger.done.values()) / 60
    note = f"Seed {ledger.seed}; {minutes:.0f} minutes."
    page.write_text(f"{before}{BEGIN}\n\n{note}\n\n{table(ledger)}\n\n{END}{after}", "utf-8")
