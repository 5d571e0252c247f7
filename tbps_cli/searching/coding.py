"""Codes of a large gallery, written when its index is: `tbps index` does it at its end, a search never does."""

from __future__ import annotations

import logging
import time

from tbps_cli.errors import CacheError
from tbps_cli.retrieval.code_files import write_codes
from tbps_cli.searching.gallery import CODED, Gallery

logger = logging.getLogger("tbps")
LONG = 100_000
"""From so many images on a line says beforehand what takes so long."""


def write_codes_of(gallery: Gallery) -> int:
    """Bring the codes of a gallery up to date, if it is large enough for them; how many images were coded now.

    They only save time, so a line says where they cannot be written, and nothing else happens.
    """
    coded = gallery.coded
    if coded is None:
        return 0

    def told(count: int) -> None:
        if count >= LONG:
            said = "%s: coding %s images in 8 bits, with which searches are quicker from %s images on"
            logger.info(said, gallery.name, f"{count:,}", f"{CODED:,}")

    began = time.monotonic()
    try:
        count = write_codes(coded, told)
    except CacheError as error:
        logger.warning("%s Until then searches read all vectors.", error.message)
        return 0
    if count:
        logger.info("%s: %s images coded in %.1f s", gallery.name, f"{count:,}", time.monotonic() - began)
    return count
