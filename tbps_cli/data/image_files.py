"""What image files are, by their names and sizes."""

from __future__ import annotations

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
"""How the names end of those that data sets have."""
HEIF = frozenset((".heic", ".heif"))
MAX_PIXELS = 100_000_000
"""Of one image: larger ones are refused before they are decoded."""
