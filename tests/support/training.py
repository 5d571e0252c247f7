"""A data set and a recipe so small that a whole training takes a second."""

import torch
from support.sets import cuhk_records, write_set

from tbps_cli import methods
from tbps_cli.engine import optim
from tbps_cli.engine.experiment import Options, prepare
from tbps_cli.engine.step import Stepper
from tbps_cli.engine.train import train
from tbps_cli.recipe.load import load
from tbps_cli.types import Batch, Task

TOWER = """
[method.tower]
patch = 8
width = 16
layers = 1
embed = 16
text_width = 16
text_layers = 1
heads = 2
text_heads = 2
"""

RECIPE = """
[data]
name = "cuhk-pedes"
image_size = [16, 8]
[method]
name = "{method}"
weights = "random"
{more}
{tower}
[optim]
kind = "adam"
lr = 1e-3
warmup_epochs = 1
scale = {{ bias = 2.0 }}
[train]
epochs = 3
batch = 12
precision = "fp32"
select_on = "val"
log_every = 2
workers = 0
eval_batch = 16
"""


def write_data(root):
    """12 training persons with two images and four captions each (48 pairs: 4 steps), 3 in val and test."""
    return write_set(root / "CUHK-PEDES", cuhk_records(persons=(12, 3, 3)))


def tiny_recipe(folder, method="clip", more="", sets=()):
    path = folder / f"tiny-{method}.toml"
    path.write_text(RECIPE.format(method=method, more=more, tower=TOWER))
    return load(path, sets)


def prepared(recipe, root):
    """The experiment of a recipe on the CPU, its images read in this process."""
    return prepare(recipe, Options(data_root=root, out=root / "run", device="cpu", workers=0))


def make_batch(rows=6, seed=0):
    """Pairs of noise: images of 16 x 8, captions of four words, one of them masked."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(rows, 77, dtype=torch.int64)
    tokens[:, 0], tokens[:, 1:5], tokens[:, 5] = 49406, torch.randint(1, 900, (rows, 4), generator=draw), 49407
    masked, label = tokens.clone(), torch.zeros_like(tokens)
    label[:, 2], masked[:, 2] = tokens[:, 2], 49405
    return Batch(
        {"image": torch.randn(rows, 3, 16, 8, generator=draw)},
        {"text": tokens, "masked": masked, "label": label},
        torch.arange(rows) % 4,
        torch.arange(rows),
        torch.arange(rows),
    )


def make_stepper(folder, method="irra", *sets, more=""):
    """A stepper over a freshly drawn tiny method."""
    recipe = tiny_recipe(folder, method, more, sets=("train.precision=fp32", *sets))
    built = methods.find(method)(recipe.method, Task((16, 8), 4))
    built.initialise(torch.Generator().manual_seed(3))
    return Stepper(built, optim.build(built, recipe.optim), train=recipe.train, clip_norm=recipe.optim.clip_norm)


class Spy:
    """An observer that remembers everything."""

    def __init__(self):
        self.plans, self.steps, self.evaluations, self.notes, self.summaries = [], [], [], [], []

    def started(self, plan):
        self.plans.append(plan)

    def stepped(self, progress):
        self.steps.append(progress)

    def decoding(self, done, total):
        pass

    def evaluating(self, done, total):
        pass

    def evaluated(self, evaluated):
        self.evaluations.append(evaluated)

    def note(self, text):
        self.notes.append(text)

    def finished(self, summary):
        self.summaries.append(summary)


class Reporter(Spy):
    """Sends the number of every step through a pipe."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe

    def stepped(self, progress):
        self.pipe.send(progress.step)


def train_child(pipe, root, out, method, sets):
    """What a child process of the tests does: train, and say so; it may be killed at any moment."""
    torch.set_num_threads(1)
    recipe = tiny_recipe(out.parent, method, sets=sets)
    train(recipe, data_root=root, out=out, resume=True, device="cpu", observer=Reporter(pipe))
    pipe.send("done")
