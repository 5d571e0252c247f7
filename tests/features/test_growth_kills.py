"""Two processes add to a large file while a third reads it; the two are killed again and again in the middle."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np

from tbps_cli.features.parts import part_paths
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
        numbers = [(version * step) % 200 for step in (1, 7, 11)]  # mostly of paths that are there already
        rows = {f"{name}/{number}": Row(f"{name}/{number}", 0, version, f"{name}{version}") for number in numbers}
        file.append(list(rows.values()), np.full((len(rows), 8), version, np.float32))
        print(version, *rows, flush=True)
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


def start(code: str, *words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kills_among_unmerged_parts_lose_no_acknowledged_row_and_double_none(tmp_path: Path) -> None:
    path, over, draw = tmp_path / "gallery.h5", tmp_path / "over", random.Random(0)
    acknowledged: dict[str, int] = {}
    versions = {"one": 0, "two": 0}
    reader = start(READER, path, over)
    writers = {name: start(WRITER, path, name, 0) for name in versions}
    in_parts = 0
    for kill in range(8):
        name = draw.choice(list(writers))
        victim = writers[name]
        assert victim.stdout
        lines = [victim.stdout.readline()]  # it has begun
        time.sleep(draw.uniform(0, 0.3))
        victim.send_signal(signal.SIGKILL)
        out, err = victim.communicate(timeout=60)
        assert victim.returncode == -signal.SIGKILL, err
        for line in filter(str.strip, [*lines, *out.splitlines()]):
            version, *paths = line.split()
            versions[name] = max(versions[name], int(version))
            acknowledged |= dict.fromkeys(paths, int(version))
        in_parts += len(part_paths(path)) > 0
        file = FeatureFile.open(path, "f1")
        found = {row.path: row.mtime for row in file.known()}
        assert len(found) == len(file), "a path comes twice"
        lost = {row: at for row, at in acknowledged.items() if found.get(row, 0) < at}
        assert not lost, f"kill {kill}: {lost}"
        assert file.matrix()[:, 0].tolist() == [row.mtime for row in file.known()]
        writers[name] = start(WRITER, path, name, versions[name] + 1)
    over.touch()
    for writer in writers.values():
        writer.kill()
        writer.communicate()
    out, err = reader.communicate(timeout=60)
    assert not reader.returncode and int(out.split()[-1]) > 0, err
    assert in_parts, "no kill found parts"
    file = FeatureFile.open(path, "f1")
    before = {row.path: row.mtime for row in file.known()}
    file.compact()
    assert {row.path: row.mtime for row in FeatureFile.open(path, "f1").known()} == before
    assert np.array_equal(file.matrix()[:, 0], [row.mtime for row in file.known()])
