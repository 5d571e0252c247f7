"""The benchmarks run, and what they compare is the same work; no test looks at a time."""

import importlib
import re
import xml.etree.ElementTree as ET
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoder import FakeEncoder
from support.runs import tiny_run

TINIER = {"width": 64, "layers": 1, "embed": 64, "heads": 1, "text_width": 64, "text_layers": 1, "text_heads": 1}


def benchmark(name):
    """A benchmark as a module."""
    return importlib.import_module(f"benchmarks.{name}")


def words(**options):
    """Options as a command line has them."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_the_machine_is_described_without_a_path_or_a_name():
    said = benchmark("_machine").line()
    assert "cores" in said and f"torch {torch.__version__}" in said
    assert "/" not in said and "\\" not in said


def test_the_peak_of_a_gpu_is_found_by_its_more_special_name(monkeypatch):
    machine = benchmark("_machine")
    assert machine.peak_flops() is None or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, peak in (("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        assert machine.peak_flops() == peak


def test_captions_have_the_lengths_of_cuhk_pedes():
    text = benchmark("text")
    length = text.lengths(20000)
    assert 2 + 1.18 * 22.5 < length.mean() < 2 + 1.18 * 24.5
    assert length.min() >= 16 and length.max() <= 77
    token_BT = text.captions(50)
    assert np.array_equal(token_BT.argmax(-1).numpy() + 1, text.lengths(50))


def test_the_text_benchmark_compares_equal_features(capsys):
    assert benchmark("text").main(words(layers=1, width=64, captions=24, batch=16, rounds=1)) == 0
    said = capsys.readouterr().out
    assert "largest relative difference" in said and said.count("\n") == 7


def test_the_usual_images_and_ours_are_the_same_but_for_their_draws(tmp_path):
    data = benchmark("data")
    split = data.write_images(tmp_path, 5)
    assert {path.suffix for path in split.paths} == {".png", ".jpg"}
    usual, tokens = next(iter(data.usual_loader(split, 5, 0)))
    assert usual.shape == (5, 3, *data.SIZE) and tokens.shape == (5, 77)
    plain = data.Views({"image": data.CLIP_TRAIN.__class__()})
    exact = next(data.Loader(split, plain, data.Bpe(), data.SIZE, batch=5, seed=1).epoch(0))
    assert usual.mean() == pytest.approx(exact.images["image"].mean().item(), abs=0.4)


@pytest.mark.parametrize("views", ["irra", "tbps_clip"])
def test_the_data_benchmark_names_every_way(views, capsys):
    assert benchmark("data").main(words(views=views, images=8, batch=4, rounds=1, workers=0)) == 0
    said = capsys.readouterr().out
    for way in ("the usual way", "ours, exact, from files", "ours, exact, decoded before", "ours, whole batches"):
        assert way in said


def test_curves_become_an_image_that_a_browser_reads():
    scaling = benchmark("scaling")
    drawn = scaling.plot({"a step": [(4, 0.1), (8, 0.19), (16, 0.5)], "memory": [(4, 100.0), (16, 90.0)]})
    root = ET.fromstring(drawn)
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert root.tag.endswith("svg") and len(lines) == 2
    x, y = (float(value) for value in lines[0].get("points").split()[1].split(","))
    span = 3  # log2 of 5x, rounded up
    assert x == pytest.approx(60 + 480 / span) and y == pytest.approx(520 - 480 / span * np.log2(1.9), abs=0.1)


@pytest.fixture
def tiny(tmp_path):
    """Makes benches of training at tiny sizes."""
    train, made = benchmark("train"), []

    def make(recipe="irra", *sets):
        root = tmp_path / str(len(made))
        root.mkdir()
        sets = ["train.batch=4", "data.image_size=[96,32]", *sets]
        made.append(train.Bench(train.write_set(root, 8, (96, 32)), recipe, "cpu", sets, train.TINY | TINIER))
        return made[-1]

    yield make
    for bench in made:
        bench.parts.loader.close()


@pytest.mark.parametrize("recipe", ["irra", "clip", "cskt", "dm_adapter", "rde"])
def test_the_usual_training_step_has_our_losses_and_our_gradient(tiny, recipe):
    beside = benchmark("train")._beside
    bench = tiny(recipe)
    assert benchmark("train")._usual.refusal(bench.parts) is None
    losses, gradient = beside.first_step(bench)
    assert losses < 1e-5 and gradient < 1e-5


def test_the_first_steps_differ_when_one_side_computes_something_else(tiny, monkeypatch):
    train = benchmark("train")
    usual, bench = train._usual, tiny()
    plain = usual.attention
    monkeypatch.setattr(usual, "attention", lambda q, k, v, **_: plain(q, k, v))
    losses, gradient = train._beside.first_step(bench)
    assert losses > 1e-2 and gradient > 1e-2, "a causal mask that is left out"
    with pytest.raises(AssertionError, match="do not do the same"):
        train.beside(bench, ["fp32"], 1)
    monkeypatch.setattr(usual, "attention", plain)
    whole = usual.irra_features
    free = lambda method, batch: whole(method, batch) | {"masked_cost": torch.zeros(len(batch))}  # noqa: E731
    monkeypatch.setattr(usual, "irra_features", free)
    assert train._beside.first_step(bench)[0] > 1e-2, "words that cost nothing"


def test_the_usual_training_step_computes_every_place_and_puts_everything_back(tiny, monkeypatch):
    train = benchmark("train")
    usual, bench = train._usual, tiny()
    fused, used = torch.nn.functional.scaled_dot_product_attention, usual.text_tower.used
    seen, plain = [], usual.attention
    monkeypatch.setattr(usual, "attention", lambda q, k, v, **how: seen.append(q.shape[2]) or plain(q, k, v, **how))
    way = usual.Usual(bench.method, bench.parts)
    batch = next(bench.batches)
    before = [parameter.detach().clone() for parameter in bench.method.parameters()]
    losses = way.step(batch)
    assert set(losses) == {"sdm", "identity", "masked"} and all(isinstance(value, float) for value in losses.values())
    assert any(not torch.equal(*pair) for pair in zip(before, bench.method.parameters(), strict=True))
    # one block of images, the text tower twice, words that look at the image, four blocks above
    assert seen == [13, 77, 77, 77, *[77] * 4]
    assert torch.nn.functional.scaled_dot_product_attention is fused and usual.text_tower.used is used


def test_the_usual_way_cuts_no_padding_anywhere(tiny, monkeypatch):
    usual, bench = benchmark("train")._usual, tiny("dm_adapter", "method.mask_global_text=false")
    seen, plain = [], usual.attention
    monkeypatch.setattr(usual, "attention", lambda q, k, v, **how: seen.append(k.shape[2]) or plain(q, k, v, **how))
    caption_BT = next(bench.batches).tokens["text"]
    with usual.written_out(), torch.no_grad():
        bench.method.encode_texts(caption_BT)
        rde = tiny("rde").method
        rde.encode_texts(caption_BT)
    assert seen == [77, 77] and caption_BT.argmax(1).max() < 76


def test_the_usual_samples_are_drawn_as_often_as_wanted_and_masked(tiny):
    usual, bench = benchmark("train")._usual, tiny()
    loader = usual.loader(bench.parts)
    assert loader.num_workers == 2
    made = usual.assembled(torch.utils.data.default_collate([loader.dataset[index] for index in range(8)]))
    assert made.images["image"].shape == (8, 3, 96, 32)
    assert ((made.tokens["label"] != 0).sum(1) >= 1).all()
    ours = next(bench.parts.loader.epoch(0))
    rows = {int(sample): row for row, sample in enumerate(made.sample_B)}
    for row, sample in enumerate(ours.sample_B.tolist()):
        assert torch.equal(ours.tokens["text"][row], made.tokens["text"][rows[sample]])
        assert ours.person_B[row] == made.person_B[rows[sample]] and ours.image_B[row] == made.image_B[rows[sample]]


def test_recipes_without_a_usual_way_say_why(tiny, capsys):
    train = benchmark("train")
    for bench, reason in (
        (tiny("tbps_clip"), "tbps_clip with these settings"),
        (tiny("irra", "train.chunk=2"), "no accumulation, chunks"),
        (tiny("irra", "data.augment=false"), "not of IRRA's family"),
    ):
        train.beside(bench, ["fp32"], 1)
        assert reason in capsys.readouterr().out


@pytest.mark.slow
def test_the_table_of_a_training_step_has_both_ways(tiny, capsys, monkeypatch):
    train = benchmark("train")
    monkeypatch.setattr(train._usual, "WORKERS", 0)
    bench = tiny()
    train.beside(bench, ["fp32"], 1)
    train.beside(bench, [], 1)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("first step, ours beside the usual: losses differ by ")
    assert [line.strip().split("  ")[0] for line in said[1:]] == [
        "the usual way in fp32",
        "pairs/s, with their data",
        "pairs/s, the model alone",
        "the same, a core-second",
        "work of a step, TFLOP",
        "peak memory of a step, MB",
    ]
    usual, ours, ratio = (float(word.replace(",", "")) for word in said[6].split("MB")[1].split()[:3])
    assert usual > ours and ratio == pytest.approx(usual / ours, abs=0.2)


@pytest.mark.parametrize(
    ("bf16", "ways"), [(True, ["usual", "ours, fp32", "ours, bf16"]), (False, ["usual", "ours, fp32"])]
)
def test_a_processor_that_multiplies_in_bf16_has_a_column_of_it(tiny, capsys, monkeypatch, bf16, ways):
    train = benchmark("train")
    monkeypatch.setattr(train._usual, "WORKERS", 0)
    monkeypatch.setattr(train._beside, "has_bf16", lambda: bf16)
    train.beside(tiny("clip"), ["fp32"], 1)
    head, *rows = capsys.readouterr().out.splitlines()[1:]
    assert [word.strip() for word in head.split("  ") if word.strip() and "ratio" not in word] == [
        "the usual way in fp32",
        *ways,
    ]
    assert rows[1].count("(") == len(ways) - 1


def test_the_share_of_the_product_rate_is_printed_on_a_cpu(tiny, capsys):
    train, bench = benchmark("train"), tiny("clip")
    found = train.measure(bench, 1)
    train.report(bench, found)
    share = found["flops"] / found["step"] / found["products"]
    assert 0 < share < 2 and f"{100 * share:.1f} % of the rate of large products" in capsys.readouterr().out


def test_half_weights_of_the_usual_way_are_copies(tiny):
    usual, bench = benchmark("train")._usual, tiny("clip")
    way = usual.Usual(bench.method, bench.parts, "fp16-pure")
    losses = way.step(next(bench.batches))
    assert all(parameter.dtype == torch.float32 for parameter in bench.method.parameters())
    assert {parameter.dtype for parameter in way.method.parameters()} == {torch.float16, torch.float32}
    assert all(np.isfinite(value) for value in losses.values())


@pytest.mark.slow
def test_the_training_benchmark_says_where_the_time_goes(capsys):
    small = [f"method.tower.{key}=32" for key in ("width", "text_width", "embed")]
    sets = [word for key in small for word in ("--set", key)]
    for recipe in ("irra", "dm_adapter"):
        assert benchmark("train").main(["--recipe", recipe, "--batch", "4", "--steps", "2", *sets]) == 0
    said = capsys.readouterr().out
    for part in ("data", "forward", "losses", "backward", "optimiser", "peak memory", "frozen towers"):
        assert part in said
    for peak, told in re.findall(r"peak memory of tensors ([\d,]+) MB, estimated ([\d,]+) MB", said):
        assert int(told.replace(",", "")) < 1.5 * int(peak.replace(",", "")), (
            "what Python and PyTorch hold counts as well"
        )


@pytest.mark.slow
def test_the_parts_of_the_training_step_are_put_back(tmp_path):
    train = benchmark("train")
    bench = train.Bench(train.write_set(tmp_path, 8, (384, 128)), "irra", "cpu", ["train.batch=4"], train.TINY)
    before = torch.Tensor.backward, train.distributed.gather
    found = bench.phases(1)
    assert {"data", "forward", "losses", "backward", "optimiser", "gather", "rest"} == set(found)
    assert (torch.Tensor.backward, train.distributed.gather) == before
    assert "losses" not in bench.method.__dict__ and "step" not in bench.stepper.optimizer.__dict__
    assert train.peak(bench) > sum(parameter.numel() * 16 for parameter in bench.method.parameters())
    bench.parts.loader.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_training_benchmark_runs_on_a_gpu(capsys):
    assert benchmark("train").main(["--device", "cuda", "--batch", "16", "--steps", "3"]) == 0
    assert "pairs/s" in capsys.readouterr().out


def test_the_search_benchmark_finds_the_same_rows_every_way(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that what the benchmark sets is taken back
    benchmark("search").main(["--rows", "600", "--queries", "1", "9", "--rounds", "1"])
    said = capsys.readouterr().out
    assert {"float32", "float16"} <= set(said.split()) and "usearch" in said


def test_the_readers_benchmark_reads_every_shape_and_says_whether_the_limits_held(tmp_path, monkeypatch):
    readers = benchmark("readers")
    for shape, (name, write) in readers.SHAPES.items():
        folder = tmp_path / shape / readers.find_layout(name).folder
        folder.mkdir(parents=True)
        write(folder, 30)
        ours, usual = readers.read_ours(shape, tmp_path / shape), readers.read_usual(shape, tmp_path / shape)
        assert ours.endswith("captions") and usual.endswith("captions"), shape
        assert 10 < int(ours.split()[0]) <= int(usual.split()[0])  # some persons are held out as val


@pytest.mark.slow
def test_the_street_benchmark_follows_answers_from_videos_to_persons(tmp_path, monkeypatch, capsys):
    street = benchmark("street")
    monkeypatch.setenv("TBPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(street, "load", lambda run: FakeEncoder())
    options = {"ckpt": "any", "persons": 8, "minutes": 0.1, "cameras": 2, "rate": 1, "every": 3, "seed": 4}
    assert street.main(words(**options, **{"data-root": tmp_path})) == 0
    said = capsys.readouterr().out
    assert "tbps index, then tbps search --group track" in said and ": 0 rows let in or left out wrongly" in said


def test_a_box_of_the_street_is_the_person_whose_true_box_it_fits(tmp_path):
    from datetime import datetime

    street = benchmark("street")
    truth = street.ClipTruth(tmp_path / "t.json", {0.0: [street.TrueBox((10, 10, 20, 60), "3", 1.0, True)]})
    clip = street.TrueClip("a.mp4", "cam1", datetime(2026, 1, 5), truth, {"3": 7})
    assert clip.shown(0.0, (12, 12, 20, 60)) == 7
    assert clip.shown(0.0, (40, 10, 20, 60)) is None
    assert clip.clearly_seen() == {7}


@pytest.mark.slow
def test_the_index_benchmark_embeds_the_same_folder_in_every_way(capsys):
    pytest.importorskip("onnxruntime")
    index = benchmark("index")
    index.main(words(images=9, rounds=1, layers=1, width=64))
    said = capsys.readouterr().out
    for name in ("what rclip does", "tbps, run", "tbps, export", "tbps, export, fp32"):
        assert any(line.startswith(name) and len(line.split()) >= 8 for line in said.splitlines())


def test_the_rival_of_the_index_benchmark_prepares_images_as_clip_does(tmp_path):
    indexing = benchmark("_indexing")
    Image.new("RGB", (91, 224), (200, 10, 30)).save(tmp_path / "a.jpg")
    prepared = indexing.prepared(tmp_path / "a.jpg", 64)
    assert (prepared.shape, prepared.dtype) == ((3, 64, 64), np.float32)
    assert abs(prepared[0].mean() - (200 / 255 - 0.48145466) / 0.26862954) < 0.05
    (first, images), (second, _) = indexing.batches([tmp_path / "a.jpg"] * 11, 64)
    assert (len(first), images.shape, len(second)) == (8, (8, 3, 64, 64), 3)


def test_growth_measures_an_index_of_its_folder_and_adding_leaves_the_file_alone(tmp_path, monkeypatch):
    growth = benchmark("growth")
    monkeypatch.setattr(growth, "ADDED", 7)
    model, folder, file = FakeEncoder(), tmp_path / "photos", tmp_path / "photos.h5"
    growth.write_folder(folder, 60)
    growth.write_index(folder, file, model.fingerprint, str(model.path))
    monkeypatch.setattr(growth, "opened", lambda place: model)
    took = growth.inside(file, model.fingerprint, 2) | growth.listing(tmp_path, folder, file, 1)
    assert growth.index(model, folder, file).update.added == 0, "the index is not that of its folder"
    took |= growth.adding(file, model.fingerprint)
    assert {"open", "query", "filter", "list", "list cpu", "walk", "walk cpu", "add", "bytes", "size"} <= took.keys()
    assert growth.walk(folder) == sum(path.stat().st_size for path in folder.rglob("*.jpg"))


def test_curves_are_drawn_for_light_and_dark_pages():
    curves = benchmark("_curves")
    drawn = ET.fromstring(
        curves.plot({"open": [(10, 0.002), (1000, 0.03)], "ask": [(10, 0.5), (1000, 20)]}, across="rows")
    )
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"open", "ask", "rows", "1 ms", "100 s", "1,000"} <= set(texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}circle"))) == 4
    assert "prefers-color-scheme: dark" in drawn.find("{http://www.w3.org/2000/svg}style").text


@pytest.mark.slow
def test_the_million_benchmark_finds_the_best_rows_of_a_small_gallery_by_its_codes(capsys):
    benchmark("million").main(
        ["--rows", "2400", "--spectra", "base", "--queries", "6", "--rounds", "1", "--together", "9"]
    )
    lines = capsys.readouterr().out.splitlines()
    ways = (
        "codes",
        "codes, 5 % filter",
        "exact",
        "exact, 5 % filter",
        "torch float32",
        "usearch float16",
        "usearch int8",
    )
    for way in ways:
        (line,) = [line for line in lines if line.startswith(f"  {way:20}")]
        assert float(line.split()[-2]) > 0.9, line


@pytest.mark.slow
def test_the_start_benchmark_runs_every_command_beside_its_rival(capsys):
    """Each way has to end well; of the search both name images."""
    benchmark("start").main(words(images=9, rounds=1, layers=1, width=64))
    said = capsys.readouterr().out
    assert said.count("tbps") >= 7 and "what rclip does" in said


@pytest.mark.slow
def test_every_way_of_running_a_model_gives_its_rows(tmp_path, capsys):
    run = tiny_run(tmp_path / "run")
    given = words(
        ckpt=run.folder, place=tmp_path / "made", images=3, captions=3, rounds=1, without="torch.compile fp32"
    )
    benchmark("ways").main(given)
    said = capsys.readouterr().out
    table = [line for line in said.splitlines() if line.startswith(("PyTorch", "onnxruntime", "OpenVINO"))]
    cosines = [(float(line.split()[-4]), float(line.split()[-1])) for line in table if len(line.split()) > 6]
    assert "PyTorch fp32" in said and "onnxruntime int8" in said and len(cosines) >= 4
    assert min(min(pair) for pair in cosines) > 0.99


@pytest.mark.slow
def test_the_install_benchmark_counts_what_an_environment_holds(tmp_path, monkeypatch, capsys):
    install = benchmark("install")
    wheel = tmp_path / "alone-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("alone.bin", bytes(5 << 20))
        file.writestr("alone-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: alone\nVersion: 1.0\n")
        file.writestr("alone-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr("alone-1.0.dist-info/RECORD", "")
    nothing = install.installed(["pip"], cached=True)
    monkeypatch.setattr(install, "ways", lambda *, whole: {"alone": [str(wheel)]})
    install.main([])
    cells = capsys.readouterr().out.splitlines()[2].split("|")
    assert [cell.strip() for cell in cells[1:4:2]] == ["alone", "1"] and nothing.packages == 0
    assert 4 < int(cells[2]) - nothing.megabytes < 7
    with pytest.raises(SystemExit, match="no-such-file"):
        install.installed([str(tmp_path / "no-such-file.whl")], cached=True)
