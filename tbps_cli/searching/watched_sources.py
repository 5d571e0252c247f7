"""What a watcher looks at: files, folders and lists, and streams that are recorded into folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps_cli.databases.urls import is_url
from tbps_cli.errors import UsageError
from tbps_cli.footage.streams import StreamRecorder, check_stream, is_stream, piece_of, shown, stream_name
from tbps_cli.places import cache_dir
from tbps_cli.searching.arrivals import Arrivals
from tbps_cli.searching.galleries import named
from tbps_cli.searching.listed import FileFacts
from tbps_cli.searching.sources import STDIN


@dataclass
class WatchedSources:
    """What is watched: files and folders, and streams that are recorded into folders."""

    arrivals: Arrivals
    recorders: list[StreamRecorder]

    @classmethod
    def of(cls, given: Sequence[str | Path], settled: float, once: bool) -> WatchedSources:
        if any(str(place) == STDIN for place in given):
            raise UsageError("-: a list from standard input ends, and cannot be watched.", "Write it into a file.")
        gallery, places = named(list(given))
        streams = [str(place) for place in places if is_stream(str(place)) and not is_url(str(place))]
        for address in streams:
            check_stream(address)
            if once:
                raise UsageError(f"--once: the stream {shown(address)} has no end.", "Leave --once out.")
        recorders = [StreamRecorder(address, cache_dir() / "streams" / stream_name(address)) for address in streams]
        folder = {recorder.address: recorder.folder for recorder in recorders}
        arrivals = Arrivals(
            [folder.get(str(place), place) for place in places],
            gallery=gallery,
            settled=settled,
            facts=dict.fromkeys(folder.values(), _of_piece),
        )
        return cls(arrivals, recorders)


def _of_piece(path: Path) -> FileFacts:
    piece = piece_of(path)
    return FileFacts(piece.camera, piece.time) if piece else FileFacts()
