"""Why no image passes a filter: values that no image has, and those that there are.

`camera == "c9"` lets nothing through in a gallery of cameras a to h. That is no mistake of the language, and an empty
answer would look like "nobody fits".
"""

from __future__ import annotations

import numpy as np

from tbps_cli.filtering.columns import Columns, Texts
from tbps_cli.filtering.masks import mask
from tbps_cli.filtering.tree import MOMENTS, Compare, In, Tree, Value, leaves, literal

MOST = 12
"""Values that are listed."""


def unmet(tree: Tree, columns: Columns) -> list[str]:
    """A sentence for each text that is asked for by `==` or `in` and that no image has, once."""
    said: dict[str, None] = {}
    for leaf in leaves(tree):
        column = columns.column(leaf.field)
        if not isinstance(column, Texts) or leaf.field in MOMENTS:
            continue
        wanted: tuple[Value, ...] = ()
        if isinstance(leaf, In):
            wanted = leaf.values
        elif isinstance(leaf, Compare) and leaf.op == "==":
            wanted = (leaf.value,)
        for value in wanted:
            if value is not None and not mask(Compare(leaf.field, "==", value), columns).any():
                said[f"No image has {leaf.field} {literal(value)}; {_known(column)}."] = None
    return list(said)


def _known(column: Texts) -> str:
    """Some of the texts of a column, in the order of their letters."""
    found = sorted({text.decode("utf-8", "replace") for text in np.unique(column.text_V[column.known_V]).tolist()})
    shown = ", ".join(found[:MOST])
    return f"there are {shown}" if len(found) <= MOST else f"there are {len(found):,}, such as {shown}"
