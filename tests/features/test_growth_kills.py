"""Two processes add to a large file, drop rows and merge it in the background while a third reads it; the two are
killed again and again in the middle."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tbps_cli.features.parts import locked, part_paths, unfinished_paths
from tbps_cli.features.store import FeatureFile

WRITER = """
    import sys
    import numpy as np
    from pathlib import Path
    from tbps_cli.features import store
    from tbps_cli.features.rows import Row
    store.FEW, store.SHARE, store.PARTS = 0, 3, 4
    path, name, version = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    file = store.FeatureFile.open(path, "f1")
    while True:
        version += 1
        if "meanwhile" in sys.argv[4]:  # as one tbps index after another
            file = store.FeatureFile.open(path, "f1")
            file.merge_meanwhile(3)
        numbers = [(version * step) % 200 for step in (1, 7, 11)]  # mostly of paths that are there already
        rows = {f"{name}/{number}": Row(f"{name}/{number}", 0, version, f"{name}{version}") for number in numbers}
        file.append(list(rows.values()), np.full((len(rows), 8), version, np.float32))
        print(version, *rows, flush=True)
        if "drop" in sys.argv[4]:
            gone = [f"{name}/{(version * step) % 200}" for step in (3, 5)]
            print(version, *(f"?{path}" for path in gone), flush=True)
            mask = np.isin(file.known().columns["path"], np.array(gone, "S"))
            file.keep(~mask) if version % 7 == 0 else file.drop(mask)
            print(version, *(f"-{path}" for path in gone), flush=True)
        file.settle()
"""
READER = """
    import sys
    from pathlib import Path
    from tbps_cli.features.store import FeatureFile
    seen = 0
    print("ready", flush=True)
    while not Path(sys.argv[2]).exists():
        file = FeatureFile.open(Path(sys.argv[1]), "f1")
        paths = file.known().paths
        assert len(set(paths)) == len(paths), "a path comes twice"
        vectors = file.matrix()[:, 0].tolist() if paths else []  # nobody has written yet
        assert vectors == file.known().columns["mtime"].tolist(), "a vector of another row"
        seen += 1
    print(seen)
"""


def start(code: str, said: Path, *words: object) -> subprocess.Popen[str]:
    """said: where its output goes; a pipe would lose what was read ahead when its reader is done."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    with said.open("w") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)


KILLS = int(os.environ.get("TBPS_TEST_GROWTH_KILLS", "0"))
"""How many kills each form of the test makes; 0: few."""


@pytest.mark.parametrize(
    "how", ["meanwhile drop", *(pytest.param(how, marks=pytest.mark.slow) for how in ("", "drop", "meanwhile"))]
)
def test_kills_among_unmerged_parts_lose_no_acknowledged_row_and_double_none(tmp_path: Path, how: str) -> None:
    path, over, draw = tmp_path / "gallery.h5", tmp_path / "over", random.Random(0)
    acknowledged: dict[str, int] = {}
    gone: dict[str, int] = {}
    versions = {"one": 0, "two": 0}
    said = {name: tmp_path / f"{name}.said" for name in (*versions, "reader")}
    reader = start(READER, said["reader"], path, over)
    writers = {name: start(WRITER, said[name], path, name, 0, how) for name in versions}
    in_parts = in_merges = 0
    for kill in range(KILLS or (8 if not how else 5)):
        name = draw.choice(list(writers))
        victim = writers[name]
        while not said[name].stat().st_size:  # it has not begun
            assert victim.poll() is None, victim.communicate()
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        victim.send_signal(signal.SIGKILL)
        _, err = victim.communicate(timeout=60)
        assert victim.returncode == -signal.SIGKILL, err
        for line in said[name].read_text().splitlines():
            version, *paths = line.split()
            versions[name] = max(versions[name], int(version))
            for one in paths:
                if one.startswith("?"):
                    acknowledged.pop(one[1:], None)
                elif one.startswith("-"):
                    gone[one[1:]] = int(version)
                else:
                    acknowledged[one] = int(version)
        in_parts += len(part_paths(path)) > 0
        in_merges += len(unfinished_paths(path)) > 0
        file = FeatureFile.open(path, "f1")
        found = {row.path: row.mtime for row in file.known()}
        assert len(found) == len(file), "a path comes twice"
        (other,) = versions.keys() - {name}  # it goes on meanwhile
        for one in (one[1:] for one in said[other].read_text().split() if one.startswith("?")):
            acknowledged.pop(one, None)
        lost = {row: at for row, at in acknowledged.items() if found.get(row, 0) < at}
        assert not lost, f"kill {kill}: {lost}"
        back = {row: at for row, at in gone.items() if 0 < found.get(row, 0) <= at}
        assert not back, f"kill {kill}: {back}"
        assert file.matrix()[:, 0].tolist() == [row.mtime for row in file.known()]
        writers[name] = start(WRITER, said[name], path, name, versions[name] + 1, how)
    over.touch()
    for writer in writers.values():
        writer.kill()
        writer.communicate()
    _, err = reader.communicate(timeout=60)
    out = said["reader"].read_text()
    assert not reader.returncode and int(out.split()[-1]) > 0, err
    assert in_parts, "no kill found parts"
    print(f"{in_parts} kills found parts, {in_merges} an unfinished merge; {out.split()[-1]} galleries were read")
    file = FeatureFile.open(path, "f1")
    before = {row.path: row.mtime for row in file.known()}
    file.compact()
    with locked(path, alone=True):  # whoever holds it removes what killed ones left
        pass
    assert {row.path: row.mtime for row in FeatureFile.open(path, "f1").known()} == before
    assert np.array_equal(file.matrix()[:, 0], [row.mtime for row in file.known()])
    assert [place.name for place in tmp_path.iterdir() if place.suffix not in (".h5", "", ".said")] == []
