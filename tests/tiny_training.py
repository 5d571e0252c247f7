"""A data set and a recipe so small that a whole training takes a second."""

import torch
from tiny_sets import cuhk_records, write_set

from tbps_cli.engine.train import train
from tbps_cli.recipe.load import load

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
select_on = "val"
log_every = 2
workers = 0
eval_batch = 16
"""


def write_data(root):
    """12 training persons with two pictures and four captions each (48 pairs: 4 steps), 3 in val and test."""
    return write_set(root / "CUHK-PEDES", cuhk_records(persons=(12, 3, 3)))


def tiny_recipe(folder, method="clip", more="", sets=()):
    path = folder / f"tiny-{method}.toml"
    path.write_text(RECIPE.format(method=method, more=more, tower=TOWER))
    return load(path, sets)


class Spy:
    """An observer that remembers everything."""

    def __init__(self):
        self.plans, self.steps, self.evaluations, self.notes, self.summaries = [], [], [], [], []

    def started(self, plan):
        self.plans.append(plan)

    def stepped(self, progress):
        self.steps.append(progress)

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
