"""Writing files and folders: whole or not at all, and one line when that is impossible."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.powerless import give_up_rights

from tbps_cli import files
from tbps_cli.errors import CacheError, DataError, TbpsError, UsageError

resource = pytest.importorskip("resource")
LONGEST = "n" * 255


def run(code: str, *, limit: int | None = None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A program of its own, which may write no file larger than `limit` bytes and lacks root's powers over files."""

    def limited() -> None:
        give_up_rights()
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    imports = "from pathlib import Path\nfrom tbps_cli import errors, files\n"
    program = imports + textwrap.dedent(code)
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=cwd, preexec_fn=limited, capture_output=True, text=True, timeout=60, check=False)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
def test_of_several_writers_the_first_one_writes_what_is_written_once(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr(files.os, "link", refused)
    path = tmp_path / "once.json"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: files.write_once(path, f"{number}" * 9), range(8)))
    text = path.read_text()
    assert len(text) == 9 and len(set(text)) == 1 and names(tmp_path) == ["once.json"]
    files.write_once(path, "another")
    assert path.read_text() == text


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "one")
    files.write_text(path, "two \udcff")
    assert path.read_bytes() == b"two \xff"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_whose_name_is_as_long_as_names_may_be_is_written(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / LONGEST, b"x")
    assert names(tmp_path) == [LONGEST]


@pytest.mark.parametrize("name", ["ü" * 100 + ".png", "a" * 300 + ".jpeg", "." + "x" * 299, "short.png"])
def test_a_shortened_name_fits_and_keeps_its_ending(name: str) -> None:
    short = files.shortened(name)
    assert len(os.fsencode(short)) <= 255
    assert Path(short).suffix == (Path(name).suffix if len(Path(name).suffix) < 255 else Path(short).suffix)
    assert short == name or len(name) > 127


def test_a_failing_writer_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
        temporary.write_text("half")
        _ = 1 // 0
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_previous_file_and_one_line(tmp_path: Path) -> None:
    done = run(
        """
        files.write_bytes(Path("a"), b"old")
        try:
            files.write_bytes(Path("a"), b"x" * 100_000, errors.CacheError)
        except errors.CacheError as error:
            print(error.message, error.hint, sep="|")
        """,
        limit=10_000,
        cwd=tmp_path,
    )
    assert done.stdout == (
        "a cannot be written: File too large for this disk or for the limit of this process.|See: ulimit -f\n"
    ), done.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "said", "what_to_do"),
    [
        (errno.ENOSPC, "No space left on device", "Free some space"),
        (errno.EROFS, "Read-only file system", "Choose another folder"),
        (errno.EACCES, "Permission denied", "Choose another folder"),
        (errno.ENAMETOOLONG, "the name is too long for the file system", "shorter"),
        (errno.EIO, "Input/output error", "Choose another folder"),
    ],
)
def test_every_refusal_of_the_system_is_one_line_and_a_hint(number: int, said: str, what_to_do: str) -> None:
    with pytest.raises(DataError) as caught, files.explained("--out x", DataError):
        raise OSError(number, os.strerror(number))
    assert caught.value.message == f"--out x cannot be written: {said}."
    assert what_to_do in (caught.value.hint or "")


def test_a_name_that_is_too_long_and_a_file_in_the_way_are_said(tmp_path: Path) -> None:
    with pytest.raises(TbpsError, match="the name is too long for the file system"):
        files.write_bytes(tmp_path / (LONGEST + "n"), b"x")
    (tmp_path / "file").touch()
    with pytest.raises(TbpsError, match="a file is in the way"):
        files.write_bytes(tmp_path / "file" / "a", b"x")


# Folders --------------------------------------------------------------------------------------


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(ZeroDivisionError), files.new_folder(out, out) as folder:
        (folder / "half").touch()
        _ = 1 // 0
    assert names(out.parent) == []
    with files.new_folder(out, out) as folder:
        (folder / "a").write_text("whole")
        assert not out.exists()
    assert names(out.parent) == ["out"]
    assert (out / "a").read_text() == "whole"


def test_a_folder_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), files.new_folder(out, out, replace=True):
        _ = 1 // 0
    assert names(out) == ["sub"]
    with files.new_folder(out, out, replace=True) as folder:
        (folder / "a").touch()
    assert (names(out), names(tmp_path)) == (["a"], ["out"])


def test_a_folder_that_is_not_empty_is_never_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TbpsError, match="cannot be written"), files.new_folder(out, out):
        out.mkdir()
        (out / "of somebody else").touch()
    assert names(out) == ["of somebody else"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_uses_stays(tmp_path: Path) -> None:
    """One process is killed in the middle, another is still at work: the third takes away the first one's alone."""
    code = """
    import sys, time
    from pathlib import Path
    from tbps_cli import files
    with files.staging(Path("a[b]")) as folder:
        (folder / "half").touch()
        print(folder.name, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": tmp_path, "text": True}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as living:
        dead, alive = (process.stdout.readline().strip() for process in (killed, living))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert names(tmp_path) == sorted([dead, alive])
        with files.staging(tmp_path / "a[b]") as folder:
            assert names(tmp_path) == sorted([alive, folder.name])
        living.communicate("")
    assert names(tmp_path) == []


def test_what_a_killed_process_left_of_a_file_is_removed_when_it_is_old(tmp_path: Path) -> None:
    """A kill while a report was written left `.report.json.0123abcd.tmp` beside a data set for good."""
    old, fresh, other = (
        tmp_path / f".{name}.tmp" for name in ("a.json.0123abcd", "a.json.4567abcd", "b.json.0123abcd")
    )
    for path in (old, fresh, other):
        path.touch()
    for path in (old, other):
        os.utime(path, (0, time.time() - files.ABANDONED_SECONDS - 1))
    files.write_text(tmp_path / "a.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", fresh.name, other.name}


def test_a_stranger_with_a_similar_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".a.notes").mkdir()
    (tmp_path / ".a.b.01234567.tmp").mkdir()
    (tmp_path / ".a.01234567.tmp").symlink_to(tmp_path / ".a.notes")
    with files.staging(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".a.01234567.tmp", ".a.b.01234567.tmp", ".a.notes"]


# Checks ---------------------------------------------------------------------------------------


def test_a_new_folder_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    files.check_new_folder("--out", tmp_path / "new" / "deep")
    for path, said in (
        (tmp_path, "exists already"),
        (tmp_path / "file", "exists already"),
        (tmp_path / "file" / "x", "a file is in the way"),
        (tmp_path / ("n" * 256) / "x", "the name is too long"),
    ):
        with pytest.raises(TbpsError, match=f"--out .*{said}"):
            files.check_new_folder("--out", path)
    assert names(tmp_path) == ["file"]


def test_a_new_file_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    files.check_new_file("--save", None, (".csv",))
    files.check_new_file("--save", tmp_path / "a.CSV", (".csv",))
    for path, said in (
        (tmp_path / "a.txt", "must end in .csv"),
        (tmp_path / "folder.csv", "it is a folder"),
        (tmp_path / "no" / "a.csv", "there is no folder"),
        (tmp_path / ("n" * 256 + ".csv"), "the name is too long"),
    ):
        with pytest.raises(TbpsError, match=f"--save .*{said}"):
            files.check_new_file("--save", path, (".csv",))


def test_a_folder_without_permission_is_found_out_first(tmp_path: Path) -> None:
    (tmp_path / "mine" / "open").mkdir(parents=True)
    (tmp_path / "mine" / "open").chmod(0o777)
    (tmp_path / "mine").chmod(0o555)
    done = run(
        """
        for check in (files.check_new_folder, lambda flag, path: files.check_new_file(flag, path, (".csv",))):
            try:
                check("--out", Path("mine/new.csv"))
            except errors.TbpsError as error:
                print(error.message)
        files.check_new_folder("--copy-to", Path("mine/open"), inside=True)
        try:
            files.check_new_folder("--out", Path("mine/open"))
        except errors.TbpsError as error:
            print(error.message)
        """,
        cwd=tmp_path,
    )
    (tmp_path / "mine").chmod(0o755)
    assert done.stdout.splitlines() == [
        "--out mine/new.csv cannot be written: Permission denied.",
        "--out mine/new.csv cannot be written: Permission denied.",
        "--out mine/open cannot be written: Permission denied.",
    ], done.stderr


def test_the_home_folder_stands_for_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert files.expanded(Path("~/x")) == Path("/home/me/x")
    assert files.expanded(Path("a/~/x")) == Path("a/~/x")
    with pytest.raises(UsageError, match="there is no home folder"):
        files.expanded(Path("~nobody-of-that-name/x"))


def test_the_kind_of_error_is_what_the_caller_asks_for(tmp_path: Path) -> None:
    with pytest.raises(CacheError):
        files.write_text(tmp_path / "no" / "a", "x", CacheError)
