"""tbps-lite: the same package with the few dependencies of `lite/pyproject.toml`; and a script that needs not even it.

Everything else is hidden from the processes here, as if it were not installed.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.error
import urllib.request
import venv
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from support.hub import Hub
from support.runs import tiny_run

from tbps_cli import errors
from tbps_cli.cli import doctor
from tbps_cli.exporting.exporter import export
from tbps_cli.exporting.fused import INPUT, fuse
from tbps_cli.models.export_files import described, sealed
from tbps_cli.models.exported import ExportedModel

pytestmark = pytest.mark.xdist_group("lite")  # its fixtures take seconds: one worker makes them

SAFELY: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4
ROOT = Path(__file__).resolve().parents[1]
LITE = tomllib.loads((ROOT / "lite" / "pyproject.toml").read_text("utf-8"))["project"]
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HIDING = """
import runpy, sys
from importlib.machinery import PathFinder
hidden = set(sys.argv[1].split(","))
class Found:
    find_distributions = PathFinder.find_distributions
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)
sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder] + [Found]
sys.argv = sys.argv[2:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def closure(names: list[str]) -> set[str]:
    """The distributions that these need, with themselves."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += [Requirement(text) for text in metadata.requires(name) or ()]
    return found


packages_distributions = functools.cache(metadata.packages_distributions)


def hidden_from(allowed: set[str], *also: str) -> str:
    """Top-level modules of everything that is installed and not allowed."""
    hidden = set(also)
    for module, owners in packages_distributions().items():
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & allowed:
            hidden.add(module)
    return ",".join(sorted(hidden - {"tbps_cli", "_virtualenv", "pip"}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tiny_run(tmp_path_factory.mktemp("runs") / "tiny-0001")
    out = tmp_path_factory.mktemp("exports") / "tiny"
    export(run.folder, out, formats=["onnx"])
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (64 + number, 32, 3), np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def run(
    hidden: str, *words: object, cwd: Path, python_path: bool = True, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    cwd.mkdir(exist_ok=True)
    env = {
        **os.environ,
        **(more or {}),
        "TBPS_CACHE_DIR": str(cwd / "cache"),
        "PYTHONPATH": str(ROOT) if python_path else "",
    }
    command = [sys.executable, "-c", HIDING, hidden, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_what_lite_needs_is_a_part_of_what_the_whole_needs_in_the_same_versions() -> None:
    whole = {Requirement(text).name: Requirement(text) for text in WHOLE["dependencies"]}
    for extra in WHOLE["optional-dependencies"].values():
        whole |= {Requirement(text).name: Requirement(text) for text in extra if not text.startswith("tbps[")}
    listed = [*LITE["dependencies"], *(text for extra in LITE["optional-dependencies"].values() for text in extra)]
    for text in listed:
        wanted = Requirement(text)
        assert wanted.specifier == whole[wanted.name].specifier, text
    assert LITE["version"] == WHOLE["version"]
    assert not {"torch", "torchvision", "open-clip-torch", "scikit-learn", "numkong"} & closure(LITE["dependencies"])


def test_index_and_search_give_the_same_answers_without_torch(exported: Path, photos: Path, tmp_path: Path) -> None:
    hidden = hidden_from(closure(LITE["dependencies"]))
    assert {"torch", "open_clip", "numkong"} <= set(hidden.split(","))
    asked = ["search", "a man in red, no bag", "--ckpt", exported, "--in", photos, "--json"]
    lite = run(hidden, "tbps_cli", *asked, cwd=tmp_path)
    assert lite.returncode == 0, lite.stderr
    (tmp_path / "whole").mkdir()
    whole = run("", "tbps_cli", *asked, cwd=tmp_path / "whole")
    assert [hit["path"] for hit in json.loads(lite.stdout)["hits"]] == [
        hit["path"] for hit in json.loads(whole.stdout)["hits"]
    ]
    for one, other in zip(json.loads(lite.stdout)["hits"], json.loads(whole.stdout)["hits"], strict=True):
        assert abs(one["score"] - other["score"]) <= 1e-5
    indexed = run(hidden, "tbps_cli", "index", photos, "--index", "people.h5", "--ckpt", exported, cwd=tmp_path)
    assert indexed.returncode == 0, indexed.stderr
    page = run(
        hidden, "tbps_cli", "search", "red", "--in", "people.h5", "--ckpt", exported, "--html", "x.html", cwd=tmp_path
    )
    assert page.returncode == 0 and (tmp_path / "x.html").is_file(), page.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "demo"], "this needs PyTorch, which is not installed."),
        (["recipes"], "this needs PyTorch"),
        (["serve", ".", "--ckpt", "x"], "Type: pip install 'tbps[serve]'"),
    ],
)
def test_what_lite_cannot_do_is_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    done = run(hidden_from(closure(LITE["dependencies"])), "tbps_cli", *words, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr


def test_the_dependencies_of_the_whole_alone_search_an_export_in_a_folder_and_by_its_name_on_a_hub(
    exported: Path, photos: Path, tmp_path: Path
) -> None:
    """`pip install tbps`, without any extra."""
    hidden = hidden_from(closure(WHOLE["dependencies"]))
    assert {"onnx", "onnxscript", "fastapi"} <= set(hidden.split(","))
    hub = Hub({"owner/street": {path.name: path.read_bytes() for path in exported.iterdir()}})
    login = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}
    found = []
    for ckpt in (exported, "hf-hub:owner/street"):
        asked = ["search", "a man in red", "--ckpt", ckpt, "--in", photos, "--json"]
        done = run(hidden, "tbps_cli", *asked, cwd=tmp_path / "place", more=login)
        assert done.returncode == 0, done.stderr
        found.append([(hit["path"], hit["score"]) for hit in json.loads(done.stdout)["hits"]])
    hub.close()
    assert found[0] == found[1] and len(found[0]) == 10


def test_images_are_served_with_the_extra_serve_alone(exported: Path, photos: Path, tmp_path: Path) -> None:
    """Without what reads videos, which is a hundred megabytes; a clip is refused by a line."""
    hidden = hidden_from(closure([*LITE["dependencies"], *LITE["optional-dependencies"]["serve"]]))
    assert {"torch", "av", "cv2"} <= set(hidden.split(","))
    env = {**os.environ, "TBPS_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    words = ["tbps_cli", "serve", photos, "--ckpt", exported, "--port", "0"]
    command = [sys.executable, "-c", HIDING, hidden, *map(str, words)]
    with (tmp_path / "said").open("w") as said:
        server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=said, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("tbps serves "), (tmp_path / "said").read_text()
        asked = urllib.request.Request(
            line.split()[-1] + "v1/search",
            json.dumps({"text": "a man in red"}).encode(),
            {"content-type": "application/json"},
        )
        for _ in range(100):
            try:
                answer = json.load(urllib.request.urlopen(asked, timeout=60))
                if len(answer["hits"]) == 10:
                    break
            except urllib.error.HTTPError as error:
                assert error.code == 503, error.read()
            time.sleep(0.2)
    finally:
        server.terminate()
        server.communicate(timeout=60)
    model = ExportedModel(exported)
    scores = model.encode_images(sorted(photos.iterdir())) @ model.encode_texts(["a man in red"], query=True)[0]
    found = np.array([hit["score"] for hit in answer["hits"]])
    assert np.abs(found - np.sort(scores)[::-1][:10]).max() <= 1e-4


@pytest.mark.parametrize(
    ("installed", "extra", "hint"),
    [
        ({"tbps-lite"}, "serve", "Type: pip install 'tbps-lite[serve]'"),
        ({"tbps-lite"}, "parquet", "It is a part of tbps, not of tbps-lite."),
        ({"tbps"}, "serve", "Type: pip install 'tbps[serve]'"),
        ({"tbps", "tbps-lite"}, "serve", "Type: pip install 'tbps[serve]'"),
        (set(), "serve", "Type: pip install 'tbps[serve]'"),
    ],
)
def test_an_extra_is_offered_of_the_distribution_that_is_installed(
    installed: set[str], extra: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold the same package: one beside the other would bring PyTorch, and two owners of each file."""

    def distribution(name: str) -> SimpleNamespace:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(version="0.1.0")

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert errors.MissingExtra("a package", extra, "this").hint == hint
    assert set(LITE["optional-dependencies"]) == errors.LITE_EXTRAS
    told = doctor._readable(doctor.report() | {"torch_error": "No module named 'torch'"})
    assert told[f"extra {'fast'}"] in (
        "installed",
        f"not installed; {hint.replace('Type', 'type').replace(extra, 'fast')}",
    )
    extras = {name.removeprefix("extra ") for name in told if name.startswith("extra ")}
    assert extras == (errors.LITE_EXTRAS if installed == {"tbps-lite"} else set(doctor.EXTRAS))


@pytest.fixture(scope="module")
def fused(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with the transform in the image graph."""
    folder = tmp_path_factory.mktemp("exports") / "fused"
    shutil.copytree(exported, folder)
    model = ExportedModel(exported)
    fuse(exported / "image.onnx", folder / "image.onnx", model.transform)
    changed = described(folder, ["image.onnx"])
    facts = model.manifest | {"fused": {"input": INPUT}, "files": model.manifest["files"] | changed}
    (folder / "tbps.json").write_text(json.dumps(sealed(facts)))
    return folder


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tiny_run(tmp_path_factory.mktemp("runs") / "tiny-0001")
    out = tmp_path_factory.mktemp("exports") / "int8"
    export(run.folder, out, quantize="int8", force=True, data_root=out.parent)
    return out


@pytest.mark.parametrize("kind", ["exported", "fused", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_script_of_an_export_needs_neither_torch_nor_tbps(
    kind: str, exported: Path, photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    hidden = hidden_from(closure(["numpy", "onnxruntime", "pillow", "tokenizers"]), "tbps_cli")
    done = run(hidden, folder / "search.py", "A man,  in RED", photos, "--top", "5", cwd=tmp_path, python_path=False)
    assert done.returncode == 0, done.stderr
    model = ExportedModel(folder if kind == "int8" else exported)
    paths = sorted(photos.iterdir())
    scores = model.encode_images(paths) @ model.encode_texts(["A man,  in RED"], query=True)[0]
    best = np.argsort(-scores, kind="stable")[:5]
    lines = [line.split("  ") for line in done.stdout.splitlines()]
    assert [Path(path) for _, path in lines] == [paths[place] for place in best]
    assert np.abs(np.array([float(score) for score, _ in lines]) - scores[best]).max() <= 1e-4
    assert len((folder / "search.py").read_text().splitlines()) < 80


ANSWERING = [
    "image.onnx.data",
    "clip_tokenizer.json",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("image.onnx", "text.onnx", "text.onnx.data")),
]


@pytest.mark.parametrize("name", ANSWERING)
def test_the_script_of_an_export_and_lite_refuse_a_file_in_which_one_bit_changed(
    name: str, exported: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "altered"
    shutil.copytree(exported, folder)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    script = hidden_from(closure(["numpy", "onnxruntime", "pillow", "tokenizers"]), "tbps_cli")
    done = run(script, folder / "search.py", "a man", photos, cwd=tmp_path, python_path=False)
    said = f"{folder / name} is not what was exported: its SHA-256 is another one."
    assert (done.returncode, done.stdout) == (1, "") and done.stderr == said + "\n", done.stderr
    lite = hidden_from(closure(LITE["dependencies"]))
    done = run(lite, "tbps_cli", "search", "a man", "--ckpt", folder, "--in", photos, cwd=tmp_path)
    assert done.returncode == 1 and f"Error: {said}" in done.stderr, done.stderr


def test_a_folder_that_takes_images_as_they_are_gives_the_same_answers_without_torch(
    exported: Path, fused: Path, photos: Path, tmp_path: Path
) -> None:
    hidden, found = hidden_from(closure(LITE["dependencies"])), []
    for folder in (exported, fused):
        asked = ["search", "a man in red", "--ckpt", folder, "--in", photos, "--json"]
        done = run(hidden, "tbps_cli", *asked, cwd=tmp_path / folder.name)
        assert done.returncode == 0, done.stderr
        found.append([(hit["path"], round(hit["score"], 4)) for hit in json.loads(done.stdout)["hits"]])
    assert found[0] == found[1]


def test_both_distributions_hold_the_same_package(tmp_path: Path) -> None:
    for source in (ROOT, ROOT / "lite"):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    held = []
    for wheel in tmp_path.glob("*.whl"):
        names = zipfile.ZipFile(wheel).namelist()
        held.append({name for name in names if ".dist-info/" not in name and not name.endswith(".pyc")})
    assert len(held) == 2 and held[0] == held[1]
    assert "tbps_cli/serving/page/page.js" in held[0] and "tbps_cli/exporting/beside/search.py" in held[0]


def test_the_sdist_of_lite_holds_all_that_its_wheel_needs(tmp_path: Path) -> None:
    """Unpacked elsewhere, without the repository above it."""
    wheel = build("wheel", ROOT / "lite", tmp_path / "here")
    with tarfile.open(build("sdist", ROOT / "lite", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", **SAFELY)
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        names = [[name for name in held.namelist() if ".dist-info/" not in name] for held in (one, other)]
        assert sorted(names[0]) == sorted(names[1]) != []
        assert all(one.read(name) == other.read(name) for name in names[0])
        assert any(name.endswith("licenses/LICENSE") for name in other.namelist())


def build(what: str, source: Path, folder: Path) -> Path:
    """The wheel or the sdist of a source tree, in a new folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    (found,) = folder.iterdir()
    return found


@pytest.mark.slow
def test_a_fresh_environment_of_the_sdist_is_small_and_searches(exported: Path, photos: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python, sdist = tmp_path / "env" / "bin" / "python", build("sdist", ROOT / "lite", tmp_path / "sdist")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", sdist]
    subprocess.run([str(word) for word in install], check=True, capture_output=True, timeout=500)
    files = [path for path in (tmp_path / "env").rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if path.suffix != ".pyc"]  # 52 MB more, where pip compiles it
    assert sum(path.stat().st_size for path in files) <= 250 * 2**20
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [python.with_name("tbps-lite"), "search", "a man in red", "--ckpt", exported, "--in", photos, "--json"]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=tmp_path,
        env=env | {"TBPS_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = subprocess.run(
        [python.with_name("tbps-lite"), "--version"], capture_output=True, text=True, check=True, env=env
    )
    assert told.stdout == f"tbps {LITE['version']}\n"
    model = ExportedModel(exported)
    scores = np.sort(
        model.encode_images(sorted(photos.iterdir())) @ model.encode_texts(["a man in red"], query=True)[0]
    )
    found = [hit["score"] for hit in json.loads(done.stdout)["hits"]]
    assert np.abs(np.array(found) - scores[::-1][: len(found)]).max() <= 1e-4


def bill(*words: object) -> dict[str, dict[str, str]]:
    """The packages of a bill of materials that `scripts/sbom` writes, by name."""
    if not (shutil.which("cyclonedx-py") or Path(sys.executable).with_name("cyclonedx-py").exists()):
        pytest.skip("cyclonedx-bom is not installed")
    done = subprocess.run(
        [str(ROOT / "scripts" / "sbom"), *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    text = Path(done.stdout.strip()).read_text("utf-8")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert wrong is None, str(wrong)[:300]
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX" and document["specVersion"] == "1.6"
    about = document["metadata"]["component"]
    assert (about["name"], about["version"]) == ("tbps-lite", LITE["version"])
    found = {re.sub(r"[-_.]+", "-", part["name"]).lower(): part for part in document["components"]}
    (own,) = (one for one in document["dependencies"] if one["ref"] == about["bom-ref"])
    direct = {re.sub(r"[-_.]+", "-", Requirement(text).name).lower() for text in LITE["dependencies"]}
    assert direct <= {re.sub(r"[-_.]+", "-", ref.partition("==")[0]).lower() for ref in own["dependsOn"]}
    return found


@pytest.mark.slow
def test_a_bill_of_materials_lists_every_dependency_of_lite_with_its_version(tmp_path: Path) -> None:
    """Over an environment that holds what pip has written about these packages, and not the packages themselves."""
    venv.create(tmp_path / "env", with_pip=False)
    place = next((tmp_path / "env").rglob("site-packages"))
    names = closure(LITE["dependencies"])
    for name in names:
        about = next(file for file in metadata.distribution(name).files or () if file.name == "METADATA")
        folder = Path(str(about.locate())).parent
        shutil.copytree(folder, place / folder.name)
    found = bill(tmp_path / "sbom.json", "--python", tmp_path / "env" / "bin" / "python")
    assert set(found) == names
    for name in names:
        assert found[name]["version"] == metadata.version(name), name
        assert found[name]["purl"].startswith(f"pkg:pypi/{name}@"), name


@pytest.mark.slow
def test_the_bill_of_a_fresh_environment_lists_nothing_else(tmp_path: Path) -> None:
    assert set(bill(tmp_path / "sbom.json")) - {"tbps-lite"} == closure(LITE["dependencies"])
