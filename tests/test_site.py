"""The site of docs/ (mkdocs.yml) builds without warnings, holds every page and image, and fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev))[^>]*href=[\"']?(?:https?:)?//"
)
"""A page that makes a browser fetch something from another place. Links that a person follows are none."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        ROOT / "mkdocs.yml",
        "--site-dir",
        out,
    ]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, env=env, cwd=out.parent)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return out


def test_every_document_and_image_lies_in_the_site(site: Path) -> None:
    docs = ROOT / "docs"
    for path in (path for path in docs.rglob("*") if path.is_file()):
        wanted = site / path.relative_to(docs)
        assert (wanted.with_suffix(".html") if path.suffix == ".md" else wanted).is_file(), path.name
    assert (site / "search" / "search_index.json").is_file()


def test_every_image_of_a_page_is_there(site: Path) -> None:
    count = 0
    for page in site.rglob("*.html"):
        for target in re.findall(r"<img\b[^>]*\bsrc=[\"']?([^\"' >]+)", page.read_text("utf-8")):
            count += 1
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
    assert count > 5


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not FETCHED.search(page.read_text("utf-8")), page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text("utf-8")), style.name
    # the theme's script would ask for stars of a repository, and for a diagram's library, on pages that have them
    home = (site / "index.html").read_text("utf-8")
    assert "data-md-component=source" not in home.replace('"', "") and "fonts.g" not in home
    assert not any('class="mermaid"' in page.read_text("utf-8") for page in site.rglob("*.html"))


@pytest.mark.parametrize(
    ("text", "fetches"),
    [
        ('<script src="https://x/y.js"></script>', True),
        ("<link rel=stylesheet href=//x/y.css>", True),
        ('<link rel="canonical" href="https://x/">', False),
        ('<a href="https://x/">', False),
        ('<img src="search.png">', False),
    ],
)
def test_what_is_fetched_is_told_from_what_is_linked(text: str, fetches: bool) -> None:
    assert bool(FETCHED.search(text)) == fetches
