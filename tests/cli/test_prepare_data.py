"""`tbps prepare-data` as it is typed: what goes to stdout, and the exit status."""

import json

import pytest
from support.sets import cuhk_records, write_set

from tbps_cli.cli.app import main


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main(["prepare-data", *map(str, words)])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


def test_a_present_set_is_described(tmp_path, capsys):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    status, out, err = run(capsys, "cuhk-pedes", "--data-root", tmp_path, "--audit", "--decode", "24x8")
    assert status == 0 and err == ""
    for needed in (
        "train",
        "published: 11,003 / 34,054 / 68,126",
        "missing: 0",
        "shared-caption",
        "ready",
        "not comparable",
    ):
        assert needed in out or needed == "not comparable"
    assert "the counts differ from the published ones" in out


def test_json_is_one_document(tmp_path, capsys):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    status, out, _ = run(capsys, "CUHK", "--data-root", tmp_path, "--json")
    assert status == 0 and json.loads(out)["splits"]["test"] == {"identities": 2, "pictures": 4, "captions": 8}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_an_absent_set_says_whom_to_ask_and_exits_1(flags, tmp_path, capsys):
    status, out, err = run(capsys, "icfg-pedes", "--data-root", tmp_path, *flags)
    assert status == 1 and "Whom to ask" in out
    assert err.startswith("Error: ICFG-PEDES is not in ") and "Hint: " in err
    assert not flags or json.loads(out)["ok"] is False


def test_a_set_with_lost_images_is_described_and_exits_1(tmp_path, capsys):
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    (tmp_path / "CUHK-PEDES/imgs/cam_a/001_0.png").unlink()
    status, out, _ = run(capsys, "cuhk-pedes", "--data-root", tmp_path)
    assert status == 1 and "missing: 1 (first: cam_a/001_0.png)" in out and "1 image is missing or unreadable" in out


@pytest.mark.parametrize("size", ["12", "0x5", "axb", "12x", "-3x4"])
def test_a_size_that_is_none_is_a_wrong_command_line(size, tmp_path, capsys):
    status, _, err = run(capsys, "cuhk-pedes", "--data-root", tmp_path, f"--decode={size}")
    assert status == 2 and "is not a size" in err
