"""A filter that lets nothing through because of a value that no image has."""

from __future__ import annotations

import pytest
from support.filters import columns_of

from tbps_cli.filtering.parse import parse
from tbps_cli.filtering.unmet import unmet

ROWS = [{"camera": f"c{place % 3}", "person": place, "path": f"{place}.jpg", "seconds": 1.0} for place in range(40)]
PERSONS = "0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19"
CAMERAS = "there are c0, c1, c2."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('camera == "c9"', [f'No image has camera "c9"; {CAMERAS}']),
        ('camera == "c9" and not camera = "c9"', [f'No image has camera "c9"; {CAMERAS}']),
        (
            'camera in ("c1", "C2", "x")',
            [f'No image has camera "C2"; {CAMERAS}', f'No image has camera "x"; {CAMERAS}'],
        ),
        (
            "person == 99",
            ["No image has person 99; there are 40, such as 0, 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19."],
        ),
        ('camera == "c1" and seconds == 3 and camera != "c9"', []),
        ('camera like "x*" or camera == none or time == 2026-01-01', []),
    ],
)
def test_values_that_no_image_has_are_named_with_those_that_there_are(text: str, said: list[str]) -> None:
    assert unmet(parse(text).tree, columns_of(ROWS)) == said
