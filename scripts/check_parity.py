"""Compare this code with golden folders: `python scripts/check_parity.py DIR...` (see tests/parity/check.py)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from parity.check import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
