"""A whole training on a tiny set: what is written, what is refused, and what is said."""

import json
import os
import re
import signal

import pytest
import torch
from support.runs import golden_state
from support.training import Spy, prepared, tiny_recipe, write_data

from tbps_cli.engine import estimate, state
from tbps_cli.engine import train as engine
from tbps_cli.engine.components import to_device
from tbps_cli.engine.log import MACHINE
from tbps_cli.engine.loss_reader import NotFinite
from tbps_cli.engine.start import copy_fitting, find_init
from tbps_cli.engine.stops import Interrupted, OutOfMemory, memory_advice
from tbps_cli.engine.train import train
from tbps_cli.errors import DataError, RecipeError, UsageError, WeightsError
from tbps_cli.models import open_model
from tbps_cli.models.run import Run
from tbps_cli.types import Scores
from tbps_cli.weights.weights_file import read_metadata, read_safetensors


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


def run(folder, data, method="clip", sets=(), *, name="run", **options):
    spy = Spy()
    recipe = tiny_recipe(folder, method, sets=sets)
    return train(recipe, data_root=data, out=folder / name, device="cpu", observer=spy, **options), spy


def same_tensors(first, second) -> bool:
    one, two = read_safetensors(first), read_safetensors(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


# What a run leaves behind -----------------------------------------------------------------------


def test_a_run_folder_holds_everything_and_opens_again(tmp_path, data) -> None:
    folder, spy = run(tmp_path, data, "irra")
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "recipe.toml",
        "weights.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "log.txt",
        "state.pt",
        "card.md",
    }
    facts = read_metadata(folder / "weights.safetensors")
    assert facts["selected_on"] == "val" and facts["epoch"] == str(spy.evaluations[-1].best_epoch)
    assert Run(folder).recipe.train.precision == "fp32" and Run(folder).recipe.data.sampler == "random"


def test_the_log_is_in_the_fields_wording(tmp_path, data) -> None:
    folder, _ = run(tmp_path, data, "irra")
    log = (folder / "log.txt").read_text()
    line = r"Epoch\[1\] Iteration\[2/4\], loss: \d+\.\d{4}, sdm_loss: .*img_acc: .*, Base Lr: 1\.00e-04"
    assert re.search(line, log)
    assert "| task |" in log and re.search(r"best R1: \d+\.\d{3} at epoch \d", log)
    assert re.search(r"guard: batch-independent \(\d+ checked, max difference .*\).*captions", log)
    records = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "step"] == [2, 4, 6, 8, 10, 12]
    assert [record["split"] for record in records if record["kind"] == "eval"] == ["val"] * 3


def test_the_plan_says_what_will_happen(tmp_path, data) -> None:
    _, spy = run(tmp_path, data, sets=["train.batch=10", "train.precision=auto"])
    plan = spy.plans[0]
    assert (plan.pairs, plan.identities, plan.iterations, plan.epochs) == (48, 12, 5, 3)
    assert plan.trained == plan.parameters > 0 and plan.select_on == "val"
    assert any(choice.startswith("train.precision: ") for choice in plan.choices)
    assert plan.memory.total > 16 * plan.parameters and plan.seconds > 0
    assert [progress.step for progress in spy.steps] == list(range(1, 16))


def test_the_plan_counts_no_more_pairs_than_the_set_has(tmp_path, data, monkeypatch) -> None:
    monkeypatch.setattr(estimate, "probe", lambda stepper, batch: estimate.Probe(1000.0, 2.0))
    sets = ["train.batch=480", "train.epochs=1"]
    _, spy = run(tmp_path, data, sets=sets)
    plan = spy.plans[0]
    assert (plan.pairs, plan.iterations, plan.memory.activations) == (48, 1, 48_000)
    assert plan.seconds == pytest.approx(96)


def test_the_probe_before_training_changes_nothing(tmp_path, data, monkeypatch) -> None:
    first, _ = run(tmp_path, data, name="with")
    monkeypatch.setattr(estimate, "probe", lambda stepper, batch: estimate.Probe(1.0, 1.0))
    second, _ = run(tmp_path, data, name="without")
    assert same_tensors(first / "last.safetensors", second / "last.safetensors")


def test_training_teaches_the_method_its_training_pairs(tmp_path, data) -> None:
    _, spy = run(tmp_path, data, sets=["train.epochs=12", "train.eval_every=6"])
    losses = [progress.losses["loss"] for progress in spy.steps]
    assert losses[-1] < 0.6 * losses[0]
    assert [evaluated.epoch for evaluated in spy.evaluations] == [6, 12]


def test_a_micro_batch_is_an_even_part_of_the_batch(tmp_path, data) -> None:
    _, spy = run(tmp_path, data, sets=["train.batch=20", "train.accumulate=2"])
    assert spy.plans[0].iterations == 3  # 48 pairs are 5 micro-batches of 10, two to a step


def means_of(folder, data, precision):
    _, spy = run(folder, data, "irra", [f"train.precision={precision}", "optim.eps=1e-3"])
    return [progress.losses["loss"] for progress in spy.steps]


@pytest.fixture(scope="module")
def plain_means(tmp_path_factory, data):
    return means_of(tmp_path_factory.mktemp("fp32"), data, "fp32")


@pytest.mark.xdist_group("precisions")
@pytest.mark.parametrize(("precision", "apart"), [("bf16", 2e-2), ("fp16", 5e-2), ("fp16-pure", 1e-2)])
def test_every_precision_follows_fp32_and_rounds_otherwise(tmp_path, data, plain_means, precision, apart) -> None:
    """The running means of the loss, step by step: equal ones would mean that the precision was not used.

    fp16 leaves out its first steps, until the scale of the gradients fits.
    """
    means = means_of(tmp_path, data, precision)
    assert means == pytest.approx(plain_means, rel=apart)
    assert all(one != other for one, other in zip(plain_means, means, strict=True))
    assert plain_means[-1] < 0.99 * plain_means[0]


def test_worker_processes_change_nothing(tmp_path, data) -> None:
    plain, _ = run(tmp_path, data, name="plain")
    busy, _ = run(tmp_path, data, name="busy", workers=2)
    assert same_tensors(plain / "last.safetensors", busy / "last.safetensors")


def test_chunks_change_rounding_alone(tmp_path, data) -> None:
    """Against how far training moved each tensor; stochastic gradient descent, since Adam amplifies rounding."""
    sets = ["optim.kind=sgd", "optim.lr=0.1"]
    start = prepared(tiny_recipe(tmp_path, sets=sets), data).method.state_dict()
    whole, pieces = (run(tmp_path, data, sets=[*sets, *more], name=name)[0] for name, more in
                     (("whole", []), ("pieces", ["train.chunk=5"])))  # fmt: skip
    one, two = (read_safetensors(folder / "last.safetensors") for folder in (whole, pieces))
    moved = {name: (value - start[name]).abs().max().item() for name, value in one.items()}
    assert max(moved.values()) > 1e-2
    for name, value in one.items():
        assert (value - two[name]).abs().max().item() <= 1e-3 * moved[name] + 1e-6, name


def test_scores_that_depend_on_the_batch_say_so_during_training_too(tmp_path, data) -> None:
    sets = ["method.attention_axis=batch", "train.epochs=1", "train.precision=fp32"]
    wide = "method.tower={patch=8, width=64, layers=1, embed=64, text_width=64, text_layers=1}"
    folder, spy = run(tmp_path, data, "php", [*sets, wide])
    assert spy.evaluations[0].guard.dependent and not spy.evaluations[0].guard.ok
    assert "depend on the rest of the batch" in Run(folder).protocol["line"]


def test_convolutions_lie_in_the_faster_order_and_weights_are_written_in_the_usual_one(tmp_path, data) -> None:
    words = 'word_weights = "random"\nword_width = 6\ngru_input = 6\nhidden = 4\nembed = 8\nqueue = 24'
    recipe = tiny_recipe(
        tmp_path,
        "textreid",
        words,
        ("method.tower.layers=[1, 1, 1, 1]", "method.tower.width=4", "data.image_size=[32, 32]"),
    )
    method = prepared(recipe, data).method
    to_device(method, torch.device("cpu"))
    kernel = method.get_parameter("visual.conv2.weight")
    assert kernel.stride() == kernel.contiguous(memory_format=torch.channels_last).stride() != (1,) * 4
    folder = train(recipe, data_root=data, out=tmp_path / "run", device="cpu")
    assert all(tensor.is_contiguous() for tensor in read_safetensors(folder / "last.safetensors").values())


# The best epoch ---------------------------------------------------------------------------------


def scripted(monkeypatch, values) -> None:
    """Let the evaluations give these R@1 in turn."""
    left = iter(values)
    monkeypatch.setattr(engine, "select_scores", lambda *_: (Scores(next(left), 0.0, 0.0, 0.0, 0.0), None))


def test_the_earlier_of_equal_epochs_stays_the_best(tmp_path, data, monkeypatch) -> None:
    scripted(monkeypatch, [0.0, 5.0, 5.0])
    folder, spy = run(tmp_path, data)
    assert [evaluated.improved for evaluated in spy.evaluations] == [True, True, False]
    assert spy.evaluations[-1].best_epoch == 2 and read_metadata(folder / "weights.safetensors")["epoch"] == "2"


def test_patience_ends_a_run_that_no_longer_improves(tmp_path, data, monkeypatch) -> None:
    scripted(monkeypatch, [9.0, 1.0, 2.0, 3.0])
    _, spy = run(tmp_path, data, sets=["train.epochs=9", "train.patience=2"])
    assert spy.summaries[0].epochs == 3 and spy.summaries[0].stopped_early and spy.evaluations[-1].best == 9.0


def test_the_scores_are_those_of_the_chosen_split(tmp_path, data) -> None:
    folder, spy = run(tmp_path, data, sets=["train.select_on=test", "train.epochs=1"])
    assert spy.evaluations[0].split == "test" and Run(folder).selected_on == "test"


# Going on ---------------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(tmp_path, data) -> None:
    folder, _ = run(tmp_path, data, sets=["train.epochs=1"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    _, spy = run(tmp_path, data, sets=["train.epochs=1"], resume=True)
    assert "finished" in spy.notes[0] and not spy.steps
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_resuming_where_nothing_is_starts_afresh_and_says_so(tmp_path, data) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.md").write_text("mine")
    folder, spy = run(tmp_path, data, sets=["train.epochs=1"], resume=True)
    assert "starts from the beginning" in spy.notes[0] and len(spy.steps) == 4
    assert (folder / "notes.md").read_text() == "mine"


def stop_after(step):
    """An observer that asks for a stop, as Ctrl-C does, once a step is taken."""

    class Stopper(Spy):
        def stepped(self, progress):
            super().stepped(progress)
            if progress.step == step:
                os.kill(os.getpid(), signal.SIGINT)

    return Stopper()


@pytest.mark.parametrize("sets", [(), ("train.accumulate=2",)])
def test_ctrl_c_saves_and_the_resumed_run_equals_one_in_one_go(tmp_path, data, sets) -> None:
    whole, _ = run(tmp_path, data, "irra", sets, name="whole")
    recipe = tiny_recipe(tmp_path, "irra", sets=sets)
    options = {"data_root": data, "out": tmp_path / "cut", "device": "cpu"}
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started the tests in the background
    with pytest.raises(Interrupted) as stopped:
        train(recipe, **options, observer=stop_after(3))
    assert stopped.value.status == 130 and "--resume" in stopped.value.hint
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(Interrupted):
        train(recipe, **options, resume=True, observer=stop_after(7))
    cut = train(recipe, **options, resume=True)
    for name in ("weights.safetensors", "last.safetensors"):
        assert same_tensors(whole / name, cut / name)
    assert plain_log(whole) == plain_log(cut)


def plain_log(folder):
    """Both logs without what measures time."""
    text = re.sub(r"Time per batch.*", "", (folder / "log.txt").read_text())
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    return text, [{key: value for key, value in row.items() if key not in MACHINE} for row in rows]


def test_another_recipe_is_refused_naming_the_keys_that_differ(tmp_path, data) -> None:
    with pytest.raises(Interrupted):
        train(tiny_recipe(tmp_path), data_root=data, out=tmp_path / "run", device="cpu", observer=stop_after(2))
    with pytest.raises(RecipeError, match=r"optim\.lr = 0\.5 \(the run has 0\.001\)") as refused:
        run(tmp_path, data, sets=["optim.lr=0.5", "train.log_every=1"], resume=True)
    assert "log_every" not in refused.value.message


def test_a_run_is_never_overwritten(tmp_path, data) -> None:
    run(tmp_path, data, sets=["train.epochs=1"])
    with pytest.raises(UsageError, match="holds a run already"):
        run(tmp_path, data)


def test_init_takes_what_fits_and_says_what_is_new(tmp_path, data) -> None:
    first, _ = run(tmp_path, data, sets=["train.epochs=1"], name="first")
    sets = ["train.epochs=1", "optim.lr=1e-30"]
    second, spy = run(tmp_path, data, "irra", sets, name="second", init=first)
    note = next(note for note in spy.notes if note.startswith("init:"))
    shared = len(read_safetensors(first / "weights.safetensors"))
    assert note.startswith(f"init: {shared} of ") and "; new: " in note
    start, end = read_safetensors(first / "weights.safetensors"), read_safetensors(second / "last.safetensors")
    torch.testing.assert_close(start["clip.visual.proj"], end["clip.visual.proj"])


def test_an_official_checkpoint_is_a_start_too(tmp_path) -> None:
    torch.save({"model": golden_state()}, tmp_path / "best.pth")
    model = open_model(tmp_path / "best.pth", device="cpu")
    method = model.method
    method.initialise(torch.Generator().manual_seed(0))
    assert not torch.equal(method.clip.visual.proj, golden_state()["base_model.visual.proj"])
    assert copy_fitting(method, find_init(tmp_path / "best.pth"), model.tokenizer).startswith("init: ")
    assert torch.equal(method.clip.visual.proj, golden_state()["base_model.visual.proj"])


# Mistakes ---------------------------------------------------------------------------------------


def test_a_data_set_without_the_chosen_split_is_refused_before_training(tmp_path) -> None:
    from support.sets import cuhk_records, write_set

    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(4, 0, 2)))
    with pytest.raises(DataError, match="no val split"):
        run(tmp_path, tmp_path)


def test_a_missing_start_is_said_before_anything_else(tmp_path) -> None:
    with pytest.raises(WeightsError, match="--init"):
        run(tmp_path, tmp_path / "nowhere", init=tmp_path / "none.pth")


def test_an_infinite_loss_stops_with_the_step_and_its_captions(tmp_path, data) -> None:
    sets = ["optim.lr=1e30", "optim.kind=sgd", "optim.warmup_epochs=0"]
    with pytest.raises(NotFinite, match=r"epoch 1, iteration \d of 4 \(training captions \d+") as stopped:
        run(tmp_path, data, sets=sets)
    assert "--restart" in stopped.value.hint
    assert state.load(tmp_path / "run").place.steps == 0


def test_running_out_of_memory_names_the_keys_to_lower(tmp_path) -> None:
    section = tiny_recipe(tmp_path).train
    cpu = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
    for failure in (MemoryError(), torch.OutOfMemoryError("CUDA"), cpu):
        with pytest.raises(OutOfMemory, match=r"train\.batch = 12") as told, memory_advice(section):
            raise failure
        assert "train.chunk=6" in told.value.hint
    with pytest.raises(RuntimeError, match="a defect"), memory_advice(section):
        raise RuntimeError("a defect")


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, data, monkeypatch) -> None:
    with pytest.raises(Interrupted):
        train(tiny_recipe(tmp_path), data_root=data, out=tmp_path / "run", device="cpu", observer=stop_after(2))
    before = (tmp_path / "run" / "state.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(WeightsError, match="No space left"):
        run(tmp_path, data, resume=True)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
