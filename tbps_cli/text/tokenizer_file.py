"""CLIP's byte pairs as a file of the library `tokenizers`: written beside exported graphs.

Programs in other languages read it, and `tbps` itself takes the merges from it where open_clip is not installed. What
the library has no step for is left out: the repair of broken encodings and entities, and TBPS-CLIP's cleaning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tbps_cli.errors import TbpsError

FILE = "clip_tokenizer.json"
"""Not tokenizer.json: in the folder of a run that describes a vocabulary of words."""
KNOWN = {
    48_894: "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a",
    48_893: "af252de096663c39bd3e9be45ffd5df45e34270f5e3ed9cf09231f8172932f02",
}
"""How many merges there are -> SHA-256 of their lines. The masked variant has one less."""
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_tokenizer_file(
    path: Path, lines: Sequence[str], special: dict[str, int], *, context: int, kept_free: int = 0
) -> None:
    """Write the file.

    lines: the merges, in order. special: how special tokens are written -> their ids; the first stands at the start of
    each row, the last at its end. context: places in a row, of which the last `kept_free` are never filled.
    """
    symbols = [*_alphabet(), *(letter + "</w>" for letter in _alphabet()), *(line.replace(" ", "") for line in lines)]
    start, *_, end = special
    made: dict[str, Any] = {
        "version": "1.0",
        "truncation": {
            "direction": "Right",
            "max_length": context - kept_free,
            "strategy": "LongestFirst",
            "stride": 0,
        },
        "padding": {
            "strategy": {"Fixed": context},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
        },
        "added_tokens": [
            {"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for token, id in special.items()
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_piece(start), {"Sequence": {"id": "A", "type_id": 0}}, _piece(end)],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                token: {"id": token, "ids": [special[token]], "tokens": [token]} for token in (start, end)
            },
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {symbol: number for number, symbol in enumerate(symbols)} | special,
            "merges": [line.split(" ") for line in lines],
        },
    }  # fmt: skip
    path.write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")


def merges_in(path: Path) -> list[str]:
    """The merges that a file holds, in order. Raises TbpsError where they are not CLIP's."""
    try:
        pairs = json.loads(path.read_text("utf-8"))["model"]["merges"]
        lines = [f"{left} {right}" for left, right in pairs]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TbpsError(f"{path}: cannot be read as a tokenizer ({error}).", "Export again.") from error
    if KNOWN.get(len(lines)) != hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest():
        raise TbpsError(f"{path}: does not hold CLIP's vocabulary (its SHA-256 differs).", "Export again.")
    return lines


def _alphabet() -> list[str]:
    """The letters that stand for bytes, in the order of CLIP's ids: those that can be seen, then the others."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, seen), *(chr(256 + number) for number in range(256 - len(seen)))]


def _piece(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}
