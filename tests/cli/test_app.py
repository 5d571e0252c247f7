"""The command as a user meets it: help, exit statuses, streams, broken pipes."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tbps_cli.cli import app as house
from tbps_cli.cli import doctor, render
from tbps_cli.errors import TbpsError

runner = CliRunner()


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m tbps_cli ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tbps_cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        check=False,
    )


def test_no_argument_and_h_and_help_print_the_same_help() -> None:
    plain = runner.invoke(house.app, [])
    assert plain.exit_code == 0
    assert plain.stdout == runner.invoke(house.app, ["-h"]).stdout == runner.invoke(house.app, ["--help"]).stdout
    assert "recipes" in plain.stdout and "\\n" not in plain.stdout


def test_version_is_one_line() -> None:
    assert runner.invoke(house.app, ["--version"]).stdout == f"tbps {house.version()}\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["recipse"], "there is no command 'recipse'.", "Did you mean tbps recipes?"),
        (["zzz"], "there is no command 'zzz'.", "Commands: prepare-data, train, "),
        (["--bogus"], "No such option: --bogus", "See: tbps --help"),
        (["recipes", "--bogus"], "No such option: --bogus", "See: tbps recipes --help"),
        (["recipes", "a", "b"], "Got unexpected extra argument", "See: tbps recipes --help"),
        (["recipes", "irra", "--set", "train.epochs"], "--set train.epochs: this is not KEY=VALUE.", "For example"),
        (["recipes", "--set", "a=1"], "--set needs the name of a recipe.", "For example"),
        (["cache", "--older-than", "3"], "--older-than needs --clean KIND.", "For example"),
        (["cache", "--clean", "photos"], "--clean photos: there is no such cache.", "Kinds: features, "),
    ],
)
def test_a_wrong_command_line_is_one_error_one_hint_and_status_2(arguments: list[str], message: str, hint: str) -> None:
    result = runner.invoke(house.app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    error, advice = result.stderr.splitlines()
    assert error.startswith(f"Error: {message}")
    assert advice.startswith(f"Hint: {hint}")


def test_a_mistake_in_a_recipe_is_status_1_without_a_traceback() -> None:
    result = runner.invoke(house.app, ["recipes", "irra", "--set", "method.temprature=1"])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "Error: --set: method.temprature = 1 is not a setting of irra.\nHint: Did you mean temperature?\n"
    )


def test_square_brackets_in_a_message_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    render.error(TbpsError("file [bold]x[/bold]: [data] is wrong.", "Write [/data]."))
    assert capsys.readouterr().err == "Error: file [bold]x[/bold]: [data] is wrong.\nHint: Write [/data].\n"


def test_an_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", interrupted)
    result = runner.invoke(house.app, ["doctor"])
    assert result.exit_code == 130
    assert result.stderr == "Error: interrupted.\n"


def test_a_lock_that_an_interrupt_broke_ends_with_130_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()

    def interrupted(*_: object) -> dict[str, object]:
        with lock:  # as `Event.wait` does, when the signal comes at the wrong moment
            lock.release()
            raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "report", interrupted)
    result = runner.invoke(house.app, ["doctor"])
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted.\n")


def test_an_interrupt_after_the_last_line_adds_nothing_to_it() -> None:
    program = """
import atexit, signal, sys
from tbps_cli.cli.app import main
signal.signal(signal.SIGINT, signal.default_int_handler)
atexit.register(signal.raise_signal, signal.SIGINT)
sys.argv[1:] = ["--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert done.stdout.startswith("tbps ")


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> dict[str, object]:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "report", broken)
    assert isinstance(runner.invoke(house.app, ["doctor"]).exception, ZeroDivisionError)


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        left = subprocess.run(
            [sys.executable, "-m", "tbps_cli", "cache", "--json"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert (left.returncode, left.stderr) == (0, "")


def test_the_module_is_the_command() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"tbps {house.version()}\n", "")


def test_recipes_json_is_one_document_and_the_table_has_a_row_each() -> None:
    rows = json.loads(runner.invoke(house.app, ["recipes", "--json"]).stdout)
    irra = next(row for row in rows if row["name"] == "irra")
    assert (irra["R1"], irra["parameters"], irra["selected_on"]) == (73.38, 194_535_419, "test")
    table = runner.invoke(house.app, ["recipes", "--all"]).stdout
    assert [line.split()[0] for line in table.splitlines()[1:] if line[:1].strip()] == [row["name"] for row in rows]
    heads = runner.invoke(house.app, ["recipes"]).stdout
    assert [line.split()[:2] for line in heads.splitlines() if line.startswith("irra")] == [["irra", "2"]]
    assert "\x1b" not in table


def test_a_printed_recipe_is_a_recipe(tmp_path: Path) -> None:
    printed = runner.invoke(house.app, ["recipes", "demo", "--set", "train.epochs=7"])
    path = tmp_path / "mine.toml"
    path.write_text(printed.stdout, encoding="utf-8")
    again = json.loads(runner.invoke(house.app, ["recipes", str(path), "--json"]).stdout)
    assert again["recipe"]["train"]["epochs"] == 7
    assert again["chosen"] == []


def test_doctor_knows_every_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    of_developers = {"all", "dev", "docs", "milvus-server"}
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - of_developers


def test_doctor_names_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "none"))
    found = json.loads(runner.invoke(house.app, ["doctor", "--json", "--data-root", str(tmp_path)]).stdout)
    assert found["devices"][0]["name"] == "cpu"
    assert found["packages"]["torch"]
    assert (found["data_root"]["path"], found["data_root"]["exists"]) == (str(tmp_path), True)
    assert found["cache"]["exists"] is False
    assert found["cache"]["free"] > 0
    assert f"cache              {tmp_path}/none (not there yet)" in runner.invoke(house.app, ["doctor"]).stdout


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (
            "raise OSError('libtorch_cpu.so: cannot open shared object file\\nmore')",
            "libtorch_cpu.so: cannot open shared",
        ),
        ("raise ModuleNotFoundError(\"No module named 'torch'\")", "No module named 'torch'"),
        ("", "module 'torch' has no attribute 'zeros'"),
    ],
)
def test_doctor_answers_where_torch_is_broken_or_absent(tmp_path: Path, broken: str, said: str) -> None:
    (tmp_path / "torch.py").write_text(broken)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = json.loads(run("doctor", "--json", PYTHONPATH=path).stdout)
    assert said in found["torch_error"] and [device["name"] for device in found["devices"]] == ["cpu"]
    table = run("doctor", PYTHONPATH=path)
    assert (table.returncode, table.stderr) == (0, "")
    assert any(line.startswith("torch ") and said in line for line in table.stdout.splitlines())


def test_cache_says_what_each_feature_file_belongs_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tbps_cli.features.rows import Row
    from tbps_cli.features.store import FeatureFile

    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path))
    about = {"run": "runs/irra-0001", "gallery": "/data/CUHK-PEDES/imgs"}
    file = FeatureFile.open(tmp_path / "features" / "imgs.h5", "mark", about=about)
    file.append([Row("a.jpg")], np.zeros((1, 3), np.float32))
    (tmp_path / "features" / "broken.h5").write_bytes(b"no HDF5")
    entries = json.loads(runner.invoke(house.app, ["cache", "--json"]).stdout)["entries"]
    known = {Path(entry["path"]).name.partition(".")[0]: (entry["images_of"], entry["made_by"]) for entry in entries}
    assert known == {"imgs": ("/data/CUHK-PEDES/imgs", "runs/irra-0001"), "broken": (None, None)}
    table = runner.invoke(house.app, ["cache"]).stdout
    assert "/data/CUHK-PEDES/imgs" in table and "runs/irra-0001" in table


def test_cache_lists_and_cleans_only_what_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path))
    for name in ("features/a.h5", "indexes/b/shard.h5", "weights/c.pt", "holiday/photo.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    os.utime(tmp_path / "features" / "a.h5", (0, 0))
    outside = tmp_path / "outside.txt"
    outside.write_text("precious")
    (tmp_path / "features" / "link").symlink_to(outside)

    listed = json.loads(runner.invoke(house.app, ["cache", "--json"]).stdout)["entries"]
    assert {(entry["kind"], Path(entry["path"]).name, entry["size"] >= 100) for entry in listed} >= {
        ("features", "a.h5", True),
        ("indexes", "b", True),
        ("weights", "c.pt", True),
    }
    runner.invoke(house.app, ["cache", "--clean", "features", "--older-than", "30"])
    assert not (tmp_path / "features" / "a.h5").exists()
    assert (tmp_path / "features" / "link").is_symlink()
    assert runner.invoke(house.app, ["cache", "--clean", "all"]).exit_code == 0
    assert outside.read_text() == "precious"
    assert (tmp_path / "holiday" / "photo.jpg").exists()
    assert [path.name for kind in ("features", "indexes", "weights") for path in (tmp_path / kind).iterdir()] == []


def test_the_log_reaches_stderr_with_warnings_labelled(capsys: pytest.CaptureFixture[str]) -> None:
    render.show_log()
    render.show_log()
    logging.getLogger("tbps").info("device: cpu (no CUDA device found)")
    logging.getLogger("tbps.data").warning("3 images are missing")
    assert capsys.readouterr().err == "device: cpu (no CUDA device found)\nWarning: 3 images are missing\n"


def test_colour_needs_a_terminal_and_no_color_unset() -> None:
    forced = run("recipse", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b[" in forced.stderr
    silenced = run("recipse", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color")
    assert "\x1b[31m" not in silenced.stderr
    assert "\x1b" not in run("recipse").stderr


def test_library_functions_keep_their_signatures_whatever_is_imported_and_need_no_torch() -> None:
    program = (
        "import inspect, sys, types, tbps_cli\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "assert set(tbps_cli.__all__) <= set(dir(tbps_cli))\n"
        "import tbps_cli.searching.index, tbps_cli.exporting.exporter\n"
        "assert type(tbps_cli) is types.ModuleType\n"
        "for name in ('search', 'export', 'index', 'evaluate', 'load'):\n"
        "    assert list(inspect.signature(getattr(tbps_cli, name)).parameters)[0] in ('checkpoint', 'ckpt'), name\n"
        "assert {'query', 'image', 'top'} <= inspect.signature(tbps_cli.search).parameters.keys()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_that_know_the_earlier_address_of_the_search_go_on_working() -> None:
    program = (
        "import tbps_cli\n"
        "from tbps_cli.search.index import index\n"
        "from tbps_cli.search.queries import read_queries\n"
        "import tbps_cli.search.gallery as gallery\n"
        "from tbps_cli.searching.gallery import Gallery\n"
        "from tbps_cli.searching.search import search\n"
        "assert tbps_cli.search is search and tbps_cli.index is index and gallery.Gallery is Gallery\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_library_name_is_an_attribute_error() -> None:
    import tbps_cli

    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = tbps_cli.serach


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_under_torchrun_only_the_first_process_does_what_is_not_training(rank, shown) -> None:
    words = [sys.executable, "-m", "tbps_cli", "cache", "--json"]
    env = {**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and bool(done.stdout) == shown
    assert ("tbps cache runs in one process; the extra ones exit." in done.stderr) == shown


@pytest.mark.parametrize("variables", [{"RANK": "1"}, {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}])
def test_a_cluster_that_sets_a_part_of_torchruns_variables_starts_an_ordinary_process(variables) -> None:
    done = run("cache", "--json", **variables)
    assert (done.returncode, type(json.loads(done.stdout))) == (0, dict)


@pytest.mark.parametrize("rank", ["first", "2", "-1"])
def test_numbers_that_torchrun_never_gives_are_a_mistake_and_no_silent_success(rank) -> None:
    rest = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    done = run("recipes", "irra", RANK=rank, **rest)
    assert done.returncode == 1 and f"Error: RANK = {rank} and WORLD_SIZE = 2 are not those of torchrun." in done.stderr


def completed(line: str) -> list[str]:
    """What the shell offers at the end of a line."""
    environment = {"_TBPS_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return run(**environment).stdout.split()


def test_the_shell_completes_commands_recipes_runs_and_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("irra-0001", "rde-0001"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.toml").touch()
    assert completed("tbps pre") == ["prepare-data"]
    assert completed("tbps train irra-") == ["irra-icfg-pedes", "irra-rstpreid"]
    assert completed("tbps recipes php-r") == ["php-released", "php-rstpreid"]
    assert completed("tbps eval --ckpt runs/i") == ["runs/irra-0001"]
    assert completed("tbps prepare-data synt") == ["synthetic", "synth-pedes"]
    assert completed("tbps eval --data rstpreid,cu") == ["rstpreid,cuhk-pedes"]


def test_completion_knows_every_data_set_and_imports_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tbps_cli.cli import app, complete\n"
        "for name in app.COMMANDS: app.load_command(name)\n"
        "assert complete.recipe('ir') and complete.run('') == []\n"
        "heavy = {'torch', 'numpy', 'h5py', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from tbps_cli.data.open import LAYOUTS\n"
        "assert list(complete.DATA_SETS) == list(LAYOUTS)\n"
    )
    # in an empty folder: the checkout may hold the demo's runs
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
