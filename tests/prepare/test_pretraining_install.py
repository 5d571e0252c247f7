"""prepare-data with pre-training sets: whom to ask, annotations that come alone, images inside Parquet files."""

import json

import pytest
from support.sets import save_image

from tbps_cli.data.layouts.pretraining_sets import LAYOUTS
from tbps_cli.data.open import open_dataset
from tbps_cli.errors import DataError
from tbps_cli.prepare.prepare import AbsentData, prepare


def content_of(path):
    return save_image(path).read_bytes()


def parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_an_absent_pretraining_set_says_whom_to_ask_and_what_to_expect(layout, tmp_path):
    with pytest.raises(AbsentData) as caught:
        prepare(layout.name, tmp_path)
    for needed in ("Whom to ask", "What you agree to", "What arrives", f"{layout.folder}/\n"):
        assert needed in caught.value.access
    assert max(map(len, caught.value.access.split("\n"))) <= 120
    assert "--source" in caught.value.hint and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hub", [True, False])
def test_images_inside_parquet_files_are_written_out(hub, tmp_path):
    images = [content_of(tmp_path / "sent" / f"{number}.png") for number in range(3)]
    column = [{"bytes": image, "path": None} for image in images] if hub else images
    source = tmp_path / "hub"
    parquet(source / "data" / "0.parquet", image=column[:2], image_path=["x/a.png", "b.png"], caption1=["a man", "b"])
    parquet(source / "data" / "1.parquet", image=column[2:], image_path=["x/c.png"], caption1=["a boy"])
    report = prepare("webperson", tmp_path / "data", source=source)
    assert report.splits == {"train": (3, 3, 3)} and report.broken == 0
    home = tmp_path / "data" / "WebPerson"
    assert (home / "images" / "x" / "a.png").read_bytes() == images[0]
    lines = [json.loads(line) for line in (home / "captions.jsonl").read_text().splitlines()]
    assert lines[0] == {"file_path": "x/a.png", "captions": ["a man"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_path": ["a.png", "../../b.png"]}, "record 2 points outside the image folder"),
        ({"image_path": ["a.png", "/b.png"]}, "record 2 points outside the image folder"),
        ({"image_path": ["a.png", "a.png"]}, "record 2 has another image under the path 'a.png'"),
        ({"image_path": ["a", "a/b.png"]}, "record 2 has another image under the path 'a/b.png'"),
        ({"image": ["text", "text"]}, "record 1 has no bytes of an image"),
        ({"image": None}, "no column of images (it has image_path, caption1)"),
        ({"caption1": None}, "no column of captions (it has image, image_path)"),
    ],
)
def test_a_parquet_file_that_cannot_be_written_out_leaves_nothing_behind(changes, said, tmp_path):
    columns = {"image": [b"1", b"2"], "image_path": ["a.png", "b.png"], "caption1": ["a man", "b"], **changes}
    source = parquet(tmp_path / "0.parquet", **{name: values for name, values in columns.items() if values})
    with pytest.raises(DataError) as caught:
        prepare("webperson", tmp_path / "data", source=source)
    assert said in caught.value.message and list((tmp_path / "data").iterdir()) == []


def test_an_annotation_that_comes_alone_gets_its_place_and_is_not_replaced(tmp_path):
    source = tmp_path / "Td-qwen.json"
    source.write_text('{"a.png": "a man"}')
    save_image(tmp_path / "data" / "LUPerson-MLLM" / "imgs" / "a.png")
    report = prepare("luperson-mllm", tmp_path / "data", source=source)
    assert report.broken == 0 and (tmp_path / "data" / "LUPerson-MLLM" / "Td-qwen.json").is_file()
    source.write_text('{"a.png": "a boy"}')
    with pytest.raises(DataError, match="already exists and differs"):
        prepare("luperson-mllm", tmp_path / "data", source=source)


def test_an_annotation_of_any_name_comes_into_place(tmp_path):
    source = tmp_path / "ham.json"
    source.write_text('[{"image": "a.png", "caption": "a man"}]')
    prepare("ham-pedes", tmp_path / "data", source=source)
    assert len(open_dataset("ham-pedes", tmp_path / "data").images) == 1


def test_missing_images_are_counted_and_named(tmp_path):
    folder = tmp_path / "MALS" / "gene_attrs"
    folder.mkdir(parents=True)
    save_image(tmp_path / "MALS" / "gene_crop" / "4x" / "a.png")
    rows = [{"image": f"4x/{name}.png", "caption": "a man", "image_id": "1"} for name in "abc"]
    (folder / "g_4x_attrs.json").write_text(json.dumps(rows))
    report = prepare("mals", tmp_path)
    assert (report.missing.count, report.missing.examples) == (2, ["4x/b.png", "4x/c.png"])
