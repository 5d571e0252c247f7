"""prepare-data: into place or not at all, and a report on every file."""

import json
import os
import re
import shutil
import tarfile

import pytest
from PIL import Image
from support.sets import cuhk_records, save_image, write_set

from tbps_cli.cli import data_view
from tbps_cli.data.exclusions import read
from tbps_cli.data.open import LAYOUTS, find_layout, open_dataset
from tbps_cli.errors import DataError, UsageError
from tbps_cli.loading.image_store import open_store
from tbps_cli.prepare.check import check
from tbps_cli.prepare.install import install
from tbps_cli.prepare.prepare import AbsentData, prepare


def archive(tmp_path, folder, inside="download/v1/CUHK-PEDES"):
    path = tmp_path / "sent.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, inside)
    return path


def sent(tmp_path, **changes):
    """A folder as it arrives, outside the data root."""
    rows = [{**row, **changes} for row in cuhk_records()]
    return write_set(tmp_path / "mail" / "files", rows)


def refused(kind=DataError, *args, **options):
    with pytest.raises(kind) as caught:
        prepare(*args, **options)
    return f"{caught.value.message}\n{caught.value.hint}"


@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS.values() if layout.counts], ids=lambda layout: layout.name
)
def test_an_absent_data_set_says_whom_to_ask_and_what_to_expect(layout, tmp_path):
    with pytest.raises(AbsentData) as caught:
        prepare(layout.name, tmp_path)
    for needed in ("Whom to ask", "What you agree to", layout.annotations[0], "prepare-data synthetic"):
        assert needed in caught.value.access
    assert "--source" in caught.value.hint and list(tmp_path.iterdir()) == []


def test_an_archive_is_unpacked_from_any_depth_and_checked(tmp_path):
    root = tmp_path / "data"
    report = prepare("cuhk-pedes", root, source=archive(tmp_path, sent(tmp_path)))
    assert report.splits == {"train": (3, 6, 12), "val": (2, 4, 8), "test": (2, 4, 8)}
    assert report.counts_agree is False and report.broken == 0
    assert (report.width, report.height) == ((12, 12), (30, 30))
    assert sorted(entry.name for entry in root.iterdir()) == ["CUHK-PEDES", "CUHK-PEDES.report.json"]
    document = json.loads((root / "CUHK-PEDES.report.json").read_text())
    assert document == json.loads(json.dumps(report.document()))
    assert document["official"]["train"]["captions"] == 68_126 and document["ok"]


def test_a_folder_is_copied_and_stays(tmp_path):
    source = sent(tmp_path)
    prepare("cuhk-pedes", tmp_path / "data", source=source)
    assert (source / "reid_raw.json").is_file()
    assert len(open_dataset("cuhk-pedes", tmp_path / "data").images) == 14


@pytest.mark.parametrize("changes", [{"split": "dev"}, {"file_path": "../x.png"}])
def test_a_wrong_annotation_leaves_nothing_behind(changes, tmp_path):
    source = sent(tmp_path)
    rows = [{**row, **changes} for row in cuhk_records()]
    (source / "reid_raw.json").write_text(json.dumps(rows))
    said = refused(DataError, "cuhk-pedes", tmp_path / "data", source=archive(tmp_path, source))
    assert "sent.tar/reid_raw.json: record 1" in said and ".unpacking" not in said
    assert list((tmp_path / "data").iterdir()) == []


def test_another_data_sets_archive_is_refused(tmp_path):
    save_image(tmp_path / "in/photos/a.png")
    said = refused(DataError, "rstpreid", tmp_path / "data", source=archive(tmp_path, tmp_path / "in", "stuff"))
    assert "does not hold RSTPReid" in said and "it has stuff" in said


def test_what_is_there_is_never_replaced(tmp_path):
    source = archive(tmp_path, sent(tmp_path))
    prepare("cuhk-pedes", tmp_path / "data", source=source)
    assert "already exists" in refused(DataError, "cuhk-pedes", tmp_path / "data", source=source)
    here = tmp_path / "data/CUHK-PEDES"
    assert "is already in the right place" in refused(DataError, "cuhk-pedes", tmp_path / "data", source=here)
    assert "Name its own folder" in refused(DataError, "cuhk-pedes", tmp_path / "data", source=tmp_path)
    assert "does not exist" in refused(DataError, "cuhk-pedes", tmp_path / "data", source=tmp_path / "no")


def test_the_annotation_may_come_by_itself_after_the_images(tmp_path):
    source = sent(tmp_path)
    (source / "reid_raw.json").rename(tmp_path / "reid_raw.json")
    (source / "caption_all.json").write_text('[{"id": 1}]')
    said = refused(DataError, "cuhk-pedes", tmp_path / "data", source=archive(tmp_path, source))
    assert "separate download" in said
    report = prepare("cuhk-pedes", tmp_path / "data", source=tmp_path / "reid_raw.json")
    assert report.broken == 0 and report.splits["train"] == (3, 6, 12)
    (tmp_path / "reid_raw.json").write_text(json.dumps(cuhk_records()[:3]))
    said = refused(DataError, "cuhk-pedes", tmp_path / "data", source=tmp_path / "reid_raw.json")
    assert "already exists and differs" in said


def test_every_kind_of_trouble_is_counted_with_examples(cuhk):
    folder = cuhk / "CUHK-PEDES/imgs/cam_a"
    (folder / "001_0.png").unlink()
    (folder / "001_1.png").write_bytes(b"no image")
    (folder / "002_0.png").write_bytes((folder / "002_0.png").read_bytes()[:-200])
    shutil.copyfile(folder / "003_0.png", folder / "003_1.png")
    report = prepare("cuhk-pedes", cuhk)
    assert (report.missing.count, report.missing.examples) == (1, ["cam_a/001_0.png"])
    assert report.unreadable.examples == ["cam_a/001_1.png (no known image format)"]
    assert report.truncated.examples == ["cam_a/002_0.png"]
    assert report.duplicates.examples == ["cam_a/003_1.png = cam_a/003_0.png"]
    assert report.broken == 2 and report.document()["ok"] is False


def test_the_data_root_may_be_the_data_sets_own_folder(cuhk):
    report = prepare("cuhk-pedes", cuhk / "CUHK-PEDES")
    assert report.file == cuhk / "CUHK-PEDES.report.json" and report.splits["test"] == (2, 4, 8)


def test_an_audit_that_lists_nothing_writes_and_advises_nothing(tmp_path, capsys):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    report = prepare("cuhk-pedes", tmp_path, audited=True)
    assert report.excluded == 0
    data_view.show(report)
    assert "data.exclude" not in capsys.readouterr().out


def test_the_audit_writes_a_list_that_a_recipe_can_exclude(tmp_path):
    rows = cuhk_records()
    rows[0]["captions"][0] = "<div>{x}</div>"
    write_set(tmp_path / "CUHK-PEDES", rows)
    report = prepare("cuhk-pedes", tmp_path, audited=True)
    assert report.excluded == 1 == len(read(report.exclude))
    assert len(open_dataset("cuhk-pedes", tmp_path, exclude=report.exclude).split("train")) == 11
    assert report.document()["exclude"] == {"file": str(tmp_path / "CUHK-PEDES.exclude.jsonl"), "entries": 1}


def test_decoding_makes_a_store_that_fits(cuhk):
    report = prepare("cuhk-pedes", cuhk, decode=(24, 8))
    split = open_dataset("cuhk-pedes", cuhk).split("train")
    assert report.store.is_dir() and open_store(split.root, (24, 8), "bilinear", split.paths) is not None


def test_own_data_is_checked_too_and_nothing_is_written_into_its_folder(tmp_path):
    save_image(tmp_path / "mine/a.png")
    (tmp_path / "mine/own.csv").write_text("image,caption\na.png,a red coat\n")
    report = prepare(str(tmp_path / "mine"), tmp_path / "data", audited=True)
    assert report.official == {} and report.counts_agree is None
    assert sorted(entry.name for entry in (tmp_path / "mine").iterdir()) == ["a.png", "own.csv"]
    assert report.file is not None and re.fullmatch(r"own\.csv-[0-9a-f]{8}\.report\.json", report.file.name)


def test_two_tables_of_one_name_have_a_report_each(tmp_path):
    reports = []
    for place in ("a/train.csv", "b/train.csv", "b/train.jsonl"):
        table = tmp_path / place
        save_image(table.parent / "1.png")
        record = {"image": "1.png", "caption": f"a red coat in {place}"}
        table.write_text(json.dumps(record) if table.suffix == ".jsonl" else "image,caption\n1.png,a red coat\n")
        reports.append(prepare(str(table), tmp_path / "data"))
    assert len({report.file for report in reports}) == 3
    assert [json.loads(report.file.read_text())["annotation"] for report in reports] == [
        str(report.source) for report in reports
    ]


def test_the_synthetic_set_is_drawn_once_and_anew_for_other_numbers(tmp_path, monkeypatch):
    calls = []

    def draw(folder, *, identities, seed, progress=None, workers=None):
        calls.append((identities, seed))
        shutil.rmtree(folder, ignore_errors=True)
        write_set(folder, cuhk_records())
        build._write_json(folder / "about.json", build.about(identities, seed))

    from tbps_cli.synthetic import build

    monkeypatch.setattr(build, "build", draw)
    for options in ({"identities": 7}, {"identities": 7}, {}, {"identities": 7, "seed": 3}):
        assert prepare("synthetic", tmp_path, **options).broken == 0
    assert calls == [(7, 0), (7, 3)]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("synthetic", {"source": "x"}, "--source does not go with synthetic"),
        ("own.csv", {"source": "x"}, "--source does not go with own.csv"),
        ("rstpreid", {"seed": 1}, "--identities and --seed do not go with rstpreid"),
    ],
)
def test_options_that_do_not_go_together_are_a_wrong_command_line(name, options, said, tmp_path):
    assert said in refused(UsageError, name, tmp_path, **options)


def test_a_report_that_cannot_be_written_does_not_cost_the_check(cuhk, monkeypatch, caplog):
    (cuhk / "CUHK-PEDES.report.json").mkdir()
    report = prepare("cuhk-pedes", cuhk)
    assert report.file is None and "the report was not written" in caplog.text


def test_progress_is_reported_by_phase(cuhk):
    seen = {}

    def phase(title):
        from contextlib import nullcontext

        return nullcontext(lambda done, total: seen.update({title: (done, total)}))

    prepare("cuhk-pedes", cuhk, decode=(24, 8), phase=phase)
    assert seen == {"reading images": (14, 14), "decoding to 24 x 8": (14, 14)}


def test_an_image_of_another_mode_counts_as_readable(cuhk):
    Image.new("CMYK", (9, 9)).save(cuhk / "CUHK-PEDES/imgs/cam_a/001_0.png".replace("png", "jpg"))
    assert check(open_dataset("cuhk-pedes", cuhk), {})[0].broken == 0


def test_a_pipe_or_a_device_is_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is neither a file nor a folder"):
        install(find_layout("cuhk-pedes"), tmp_path / "pipe", tmp_path / "data")
