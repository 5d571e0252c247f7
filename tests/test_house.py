"""The design, as tests: what every command, recipe, method and module must have, and who may import what."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import typer

import tbps_cli
from tbps_cli import methods
from tbps_cli.cli.app import app
from tbps_cli.recipe.load import load
from tbps_cli.recipe.names import list_recipes

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tbps_cli"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stat().st_size > 0)


def group() -> Any:
    return typer.main.get_command(app)


def commands() -> list[str]:
    return list(group().list_commands(None))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a file, parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def users_of(*packages: str) -> set[str]:
    """The files, relative to the package, that import one of the packages."""
    return {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name.split(".")[0] in packages for name in imports_of(path))
    }


def calls_of(dotted: str) -> set[str]:
    """The files that spell out `torch.load` or the like."""
    return {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and node.attr == dotted.rpartition(".")[2] and ast.unparse(node) == dotted
    }


# The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["eval", "--help"], ["search", "--help"], ["train", "--help"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from tbps_cli.cli.app import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = [name for name in ('torch', 'numpy', 'h5py', 'PIL') if name in sys.modules]\n"
        "print('heavy:', heavy, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "heavy: []\n"
    assert "Usage: tbps" in done.stdout


def test_every_command_of_the_contract_is_there() -> None:
    """The names that people's scripts type. A command more or less is a decision, so it is made here too."""
    contract = "prepare-data train eval compare index search serve watch export convert recipes runs cache doctor"
    assert sorted(commands()) == sorted(contract.split())


@pytest.mark.parametrize("name", commands())
def test_every_option_has_help_and_every_command_a_sentence(name: str) -> None:
    command = group().get_command(None, name)
    assert (command.help or "").strip().endswith("."), f"tbps {name} does not say what it does"
    silent = [parameter.name for parameter in command.params if not (parameter.help or "").strip()]
    assert silent == []


# A command that prints a document needs --json; one that opens a model what belongs to a model.
NEEDS = {
    **{name: {"--json"} for name in ("prepare-data", "eval", "search", "watch", "recipes", "runs", "cache", "doctor")},
    **{name: {"--ckpt", "--device", "--set", "--words"} for name in ("index", "export")},
    "train": {"--set", "--data-root", "--out", "--init", "--resume", "--device", "--workers"},
}
NEEDS["eval"] = NEEDS["search"] = NEEDS["watch"] = {"--ckpt", "--device", "--set", "--words", "--json"}


@pytest.mark.parametrize("name", commands())
def test_options_that_belong_together_are_all_there(name: str) -> None:
    spelled = {flag for parameter in group().get_command(None, name).params for flag in parameter.opts}
    assert NEEDS.get(name, set()) <= spelled


# Recipes and methods --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_and_is_documented_in_its_head(name: str) -> None:
    recipe = load(name)
    text = (ROOT / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert recipe.name == name
    if recipe.published:
        head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
        assert f"R@1 {recipe.published.R1:.2f}" in head
        assert recipe.published.venue in head or "extends" in text


@pytest.mark.parametrize("name", methods.names())
def test_a_method_is_four_files_module_recipe_golden_folder_and_parity_adapter(name: str) -> None:
    assert any(load(recipe).method.name == name for recipe in list_recipes()), "no recipe uses it"
    assert (ROOT / "tests" / "golden" / name / "config.json").is_file(), "no golden folder"
    assert (ROOT / "tests" / "parity" / f"{name}.py").is_file(), "no parity adapter"
    assert methods.find(name).paper, "it does not name its paper"


# Modules --------------------------------------------------------------------------------------


def test_imports_go_downwards_only() -> None:
    lint = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


def test_every_module_opens_with_a_paragraph() -> None:
    silent = [path.name for path in MODULES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert silent == []


def test_rich_and_typer_live_in_the_command_line_only() -> None:
    assert {name.split("/")[0] for name in users_of("rich", "typer")} == {"cli"}


def test_h5py_is_used_in_one_place() -> None:
    assert users_of("h5py") == {"features/hdf5.py"}


def test_pickles_are_read_in_one_file_and_never_by_what_runs_them() -> None:
    """`weights/pickles.py` walks the opcodes; whatever lets a file call functions stands nowhere."""
    assert users_of("pickletools") == {"weights/pickles.py"}
    assert users_of("pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal") == set()
    for loader in ("torch.load", "torch.jit.load", "torch.serialization.load", "torch.hub.load"):
        assert calls_of(loader) == set()
        assert [str(path) for path in MODULES if loader in imports_of(path)] == []
    assert [str(path) for path in MODULES for word in _keywords(path) if word == ("allow_pickle", True)] == []


def _keywords(path: Path) -> Iterator[tuple[str | None, object]]:
    """The keyword arguments of all calls in a file, where they are constants."""
    for node in nodes(path):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            yield node.arg, node.value.value


LAUNCHER = "torch.distributed.elastic", "torch.distributed.launcher"
"""Starting processes is no group of them: `engine/launch.py` does what torchrun does."""


def test_process_groups_stand_in_one_file() -> None:
    distributed = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name.startswith("torch.distributed") and not name.startswith(LAUNCHER) for name in imports_of(path))
    }
    assert distributed | calls_of("torch.distributed") == {"distributed.py"}


def test_torchvision_and_open_clip_are_never_imported() -> None:
    """torchvision from the package index, built for CUDA, cannot be imported beside a CPU build of PyTorch, and
    open_clip imports it; `augment/ops.py` has the figures. Tests and benchmarks compare with both. Its detectors are
    used all the same, by way of `footage/operators.py`, which takes the place of what is missing."""
    assert users_of("torchvision", "open_clip") == set()
    assert 'import_module("torchvision")' in (PACKAGE / "footage" / "operators.py").read_text()


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside functions count, and those under TYPE_CHECKING."""
    names = {path: module_of(path, ROOT) for path in MODULES}
    for folder in (ROOT / "scripts", ROOT / "tests"):  # beside the package: benchmarks, support, parity
        names |= {path: module_of(path, folder) for path in folder.rglob("*.py") if path.parent != folder}
    known = set(names.values())
    graph = {
        name: {found if found in known else found.rpartition(".")[0] for found in imports_of(path)} & known - {name}
        for path, name in names.items()
    }
    assert {"tbps_cli.cli.app", "benchmarks.train", "support.kills", "parity.check"} <= known
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def module_of(path: Path, root: Path) -> str:
    """The name under which a file is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def test_random_bits_are_mixed_in_one_file() -> None:
    """SplitMix64's constants; a second copy once had two digits of one exchanged."""
    constants = "0x94D049BB133111EB", "10723151780598845931", "7723592293110705685"
    files = [path for path in MODULES if any(number in path.read_text(encoding="utf-8") for number in constants)]
    assert [str(path.relative_to(PACKAGE)) for path in files] == ["augment/rng.py"]


def test_no_method_imports_another() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name in methods.names()
        for imported in imports_of(PACKAGE / "methods" / f"{name}.py")
        if imported.startswith("tbps_cli.methods.") and imported.split(".")[2] in methods.names()
    ]
    assert wrong == []


def test_training_changes_a_recipe_in_one_place() -> None:
    """`recipe.resolve`, before anything is built; `engine.start` makes the method's settings that it is given."""
    changing = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in [
            *(PACKAGE / "engine").glob("*.py"),
            PACKAGE / "cli" / "train.py",
            *(PACKAGE / "recipe").glob("*.py"),
        ]
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("recipe.model_copy")
    ]
    assert [place.partition(":")[0] for place in changing] == ["recipe/resolve.py"]


def test_nothing_above_the_methods_compares_with_the_name_of_one() -> None:
    known = set(methods.names())
    asking = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for folder in ("engine", "retrieval", "searching", "exporting", "features", "models", "recipe")
        for path in (PACKAGE / folder).rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Compare)
        for word in ast.walk(node)
        if isinstance(word, ast.Constant) and word.value in known
    ]
    assert asking == []


def test_nothing_above_the_methods_looks_for_a_word_table() -> None:
    """What a method brings besides weights comes through `Method.text_input`."""
    keys = {"words", "word_table", "word_width", "word_weights", "vocabulary"}
    looking = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for folder in ("engine", "retrieval", "searching", "exporting", "features", "models")
        for path in (PACKAGE / folder).rglob("*.py")
        for node in nodes(path)
        if isinstance(node, ast.Constant) and node.value in keys
    ]
    assert looking == []


@pytest.mark.parametrize("name", tbps_cli.__all__)
def test_every_name_of_the_library_is_a_documented_function(name: str) -> None:
    function = getattr(tbps_cli, name)
    assert inspect.isfunction(function) and function.__doc__
    annotated = inspect.signature(function, eval_str=False)
    assert annotated.return_annotation is not inspect.Signature.empty
    assert all(one.annotation is not one.empty for one in annotated.parameters.values())


def test_no_function_of_the_library_has_the_name_of_a_package() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages.isdisjoint(tbps_cli.__all__)
    # One module has: the earlier address of `searching`, which leaves the function in its place.
    assert {path.stem for path in PACKAGE.glob("*.py")} & set(tbps_cli.__all__) == {"search"}
    assert not any(name.startswith("tbps_cli.search.") for path in MODULES for name in imports_of(path))


def test_no_class_name_stands_in_two_modules() -> None:
    """A name that means two things has to be looked up each time that it is met."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in nodes(path)[0].body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


@pytest.mark.xdist_group("together")
def test_workers_of_pytest_keep_groups_together(request: pytest.FixtureRequest) -> None:
    """A version of pytest that pytest-xdist does not know makes them forget groups without a word."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("not run with --dist loadgroup")
    assert request.node.nodeid.endswith("@together")
