"""Every line that the documents show for a shell is typed into one, in the order of its document.

The folder that it is typed in holds small things under the names that the documents use (`support/workshop.py`). Each
line has to end well, or as badly as its document shows it, and to print the tables and labels that stand below it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import workshop
from support.postgres_server import Server
from support.shell import Shell
from support.typed_lines import Typed, lacking, typed_lines

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "lite" / "README.md"),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.name != "cli.md"),
]
NOT_TYPED = {
    r"^pip install": "the network; tests/test_wheel.py and test_lite.py install both distributions",
    r"^\./scripts/(demo|test)\b": "an environment of its own and minutes; the demo's commands are typed one by one",
    r"^scripts/bench\b": "minutes each; tests/test_benchmarks.py runs them with less",
    r"^scripts/campaign\b": "hours; tests/test_campaign.py runs its short form",
    r"^\.venv/bin/python scripts/kill_campaign\.py": "an hour; tests/engine/test_resume.py kills runs in small",
    r"^(docker|cp deploy|python3 -m venv /opt|install -D)": "a container runtime, or root; see tests/test_deploy.py",
    r"^pg_basebackup\b": "a second machine; tests/databases/test_remote.py makes and promotes a standby",
    r"milvus://host": "a server in which nobody else works; tests/databases/test_moving.py moves a gallery there",
    r"^torchrun --nnodes=2": "two machines",
    r"^curl ": "a server that runs; tests/serving/test_search.py asks the same",
    r"--detector fasterrcnn_mobilenet_v3_large_fpn --download": "74 MB; tests/footage/test_detectors.py fetches less",
    r"^tbps index city$": "a million images; tests/searching/test_coded.py makes codes of fewer",
    r"--ckpt ECCL-FOLDER": "weights of two tensors a name; tests/methods/test_eccl.py reads such a folder",
}
"""What is not typed: pattern -> what it would need, and where it is tried instead."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> list[Typed]:
    return list(typed_lines(path, named(path)))


def reason(line: str) -> str | None:
    """Why a line is not typed, or None."""
    return next((why for pattern, why in NOT_TYPED.items() if re.search(pattern, line)), None)


def test_what_is_not_typed_still_stands_in_a_document() -> None:
    everything = [typed.line for path in DOCUMENTS for typed in lines_of(path)]
    gone = [pattern for pattern in NOT_TYPED if not any(re.search(pattern, line) for line in everything)]
    assert gone == []
    assert len(NOT_TYPED) <= 15
    typed = [line for line in everything if reason(line) is None]
    assert len(typed) > 110


def test_lines_and_what_stands_below_them_are_read_from_a_document(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ntbps runs   # all\ntbps cache \\\n  --json\n```\n```\ntbps doctor\n```\n"
        "```console\n$ tbps search -i\nType.\n> a man\n$ tbps eval\nError: none\n```\n"
    )
    found = list(typed_lines(page, "page"))
    assert [(typed.place, typed.line) for typed in found] == [
        ("page:2", "tbps runs   # all"),
        ("page:3", "tbps cache \\\n  --json"),
        ("page:10", "tbps search -i"),
        ("page:13", "tbps eval"),
    ]
    assert (found[2].answers, found[2].fails, found[3].fails) == ("a man\n", False, True)


def test_a_heading_or_a_label_that_is_not_printed_is_noticed() -> None:
    shown = "rank   score   file", "   1  0.8127  a.jpg", "Understood: 3", "50 images of photos"
    assert lacking(shown, "rank  score  file\nUnderstood: more\n") == []
    assert lacking(shown, "rank  score  path\nUnderstood: more\n") == ["rank   score   file"]
    assert lacking(shown, "rank  score  likely  file\n") == ["Understood: 3"]


# Typed in a shell -------------------------------------------------------------------------------

SLOW = (
    r"tbps train|torchrun|--identities|--street|--probe|--degrade|--calibration|--sure|tbps export|--ckpt exported|"
    r"postgresql://|tbps serve|tbps doctor --detector|tbps recipes|--decode|/shared/"
)
"""Lines that take more than a second or two: typed by a test of their own, with all others of their document."""
OPENED = {"tbps serve": "Stop with Ctrl-C.", "tbps watch": "Ctrl-C ends the watch."}
"""Commands that go on until they are interrupted, and what they say when they have begun."""


@dataclass(frozen=True)
class Change:
    """What is typed instead of a part of a line, and why."""

    pattern: str
    instead: str
    why: str


TRAIN = r"^(tbps train|torchrun .* train)"
CHANGES = (
    Change(rf"{TRAIN}( \S+)(.*?)( *#.*)?$", rf"\1\2\3 {workshop.SMALLER}", "hours at full size"),
    Change(
        rf"{TRAIN}( (?!nam |ham |eccl --data-root)\S+)(?= )(?!.*(--init|hf-hub))", rf"\1\2 {workshop.DRAWN}", "350 MB"
    ),
    Change(r" --set method\.weights=openai", "", "the same"),
    Change(r"^(\S+ )?tbps serve ", r"\1tbps serve --port 0 ", "8080 may be taken"),
    Change(r"--minutes 5 --identities 100", "--minutes 0.1 --identities 6", "a street of 300 s takes minutes"),
    Change(r"synthetic --decode", "synthetic --identities 80 --decode", "1,760 persons take two minutes"),
    Change(r"--identities 400", "--identities 40", "400 persons take half a minute"),
    Change(r"(?<=[ =])/shared/", "shared/", "a folder of the root"),
    Change(r"--source ARCHIVE", "--source ARCHIVE.zip", "a placeholder"),
    Change(r"--nproc(_per_node=| )[48]", r"--nproc\g<1>2", "processes that share two cores"),
)
EXPORTED = "tbps export --ckpt RUN --out exported --format onnx"
BEFORE = {
    "README.md": [("", "rm -r data/CUHK-PEDES")],
    "lite/README.md": [("", EXPORTED)],
    "docs/data.md": [
        ("tbps prepare-data cuhk-pedes", "rm -r data/CUHK-PEDES data/synthetic"),
        ("--source reid_raw.json", "rm data/CUHK-PEDES/reid_raw.json"),
        ("tbps prepare-data synth-pedes", "mv data/SYNTH-PEDES away"),
        ("webperson", "rm -r data/WebPerson"),
        ("--against", "mv away data/SYNTH-PEDES"),
    ],
    "docs/demo.md": [("--decode", "rm -r data/synthetic runs")],
    "docs/distributed.md": [
        ("/shared/", "mkdir shared; cp -r data/synthetic/imgs shared/photos"),
        ("--in /shared/", "tbps index shared/photos --index shared/people.h5 --share 1/16"),
    ],
    "docs/scale.md": [("--move", "tbps index photos --index people.h5")],
    "docs/resume.md": [
        ("", "rm -r runs/irra-0001"),
        ("", f"tbps train irra {workshop.DRAWN} {workshop.SMALLER} --out runs/irra-0001"),
    ],
    "docs/search.md": [
        ("a man in red", "mv runs away"),
        ("2:black trousers", "mv away runs"),
        ("17:05 <= clock", "rm -r photos; cp -r cam7 photos"),
        ("--sure", "tbps eval --calibration"),
    ],
    "docs/serving.md": [
        ("tbps serve", EXPORTED),
        ("tbps serve", "tbps index photos --index people.h5 --ckpt exported"),
        ("tbps serve", "tbps index --gallery station cam1 --ckpt RUN"),
        ("tbps serve", "tbps index --gallery entrance photos --ckpt RUN"),
        ("postgresql", "tbps index cam1 --gallery postgresql://HOST/people --ckpt RUN"),
    ],
}
"""What is typed besides, before the first line of a document that has this in it."""
FAILS = r"# (whom to ask for it|not there: )"
"""Lines that end with status 1 without showing an error: the data set is not there yet, and they say how to get it."""


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shell, Path]]:
    """A shell, and the folder that each document gets a copy of."""
    base = tmp_path_factory.mktemp("documents")
    hub = workshop.new_hub()
    place = base / "made"
    place.mkdir()
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(base / "hub"),
        "HF_HUB_OFFLINE": "0",
        "TBPS_DATA_ROOT": "",
        "TBPS_KEEP_TOWERS": "0",
        "TBPS_CACHE_DIR": "cache",
        "HOME": "home",
        "COLUMNS": "200",
    }
    shell = Shell(base / "bin", env, "support.first_choice")
    workshop.prepare(place, shell)
    yield shell, place
    shell.close()
    hub.close()


class Databases:
    """A real PostgreSQL server with a database for each name of a host in a document."""

    def __init__(self, server: Server, document: str) -> None:
        self.server, self.document, self.made = server, document, set[str]()

    def put_into(self, line: str) -> str:
        """The line with the server's own address in each URL; several hosts are this one several times."""
        return re.sub(r"postgresql://([\w@,]+)/people", self._url, line)

    def _url(self, found: re.Match[str]) -> str:
        hosts = found[1].split(",")
        name = re.sub(r"\W", "_", f"{self.document}_{hosts[0]}").lower()
        if name not in self.made:
            self.made.add(name)
            self.server.create(name)
        address = ",".join([f"127.0.0.1:{self.server.port}"] * len(hosts))
        return f"postgresql://postgres@{address}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    server = Server.or_skip()
    yield server
    server.remove()


def typed_in(shell: Shell, place: Path, path: Path, *, slow: bool, mend: Callable[[str], str] = str) -> list[str]:
    """What is wrong with the lines of a document. mend: changes a line besides `CHANGES`."""
    wrong = []
    before = list(BEFORE.get(named(path), ()))
    for typed in lines_of(path):
        if reason(typed.line) or (not slow and re.search(SLOW, typed.line)):
            continue
        while before and before[0][0] in typed.line:
            done = shell.run(mend(before.pop(0)[1]), place)
            assert done.status == 0, done.text
        line = mend(typed.line)
        for change in CHANGES:
            line = re.sub(change.pattern, change.instead, line)
        until = next((said for begin, said in OPENED.items() if begin in line), None)
        done = shell.run(line, place, typed=typed.answers, until=until)
        if bool(done.status) != (typed.fails or re.search(FAILS, typed.line) is not None):
            wrong.append(f"{typed.place}: {line}: status {done.status}\n{done.text}")
        elif missing := lacking(typed.shown, done.text):
            wrong.append(f"{typed.place}: {line}: does not print {missing}\n{done.text}")
    return wrong


def copied(made: tuple[Shell, Path], tmp_path: Path) -> Path:
    place = tmp_path / "place"
    shutil.copytree(made[1], place, symlinks=True)
    return place


def has_lines(path: Path, *, slow: bool) -> bool:
    lines = [typed.line for typed in lines_of(path) if reason(typed.line) is None]
    return any(bool(re.search(SLOW, line)) == slow for line in lines)


@pytest.mark.slow  # 20 s to make the folder, and a minute for them all
@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if has_lines(path, slow=False)], ids=named)
def test_what_a_document_shows_works_when_it_is_typed(made: tuple[Shell, Path], path: Path, tmp_path: Path) -> None:
    wrong = typed_in(made[0], copied(made, tmp_path), path, slow=False)
    assert wrong == [], "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.xdist_group("documents")
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if has_lines(path, slow=True)], ids=named)
def test_what_takes_longer_works_too(
    made: tuple[Shell, Path], path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    mend: Callable[[str], str] = str
    if "postgresql://" in path.read_text("utf-8"):
        mend = Databases(request.getfixturevalue("postgres"), named(path)).put_into
    wrong = typed_in(made[0], copied(made, tmp_path), path, slow=True, mend=mend)
    assert wrong == [], "\n".join(wrong)
