"""Every method on CLIP towers starts from weights of either family: OpenAI's QuickGELU and LAION's GELU."""

import pytest
import torch
from support.sets import cuhk_records, write_set
from support.training import tiny_recipe

from tbps_cli import methods
from tbps_cli.engine.train import train
from tbps_cli.models import open_model
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.sizes import Tower

METHODS = [name for name in methods.names() if name != "textreid"]
"""textreid has half of CLIP."""
TINY = Tower(width=64, layers=1, patch=8, embed=64, text_width=64, text_layers=1)


def archive(folder, family):
    """A small CLIP as the family publishes it: OpenAI's with its scalars and half weights, LAION's plain."""
    clip = Clip(TINY, (16, 16))
    clip.initialise(torch.Generator().manual_seed(5))
    state = dict(clip.state_dict()) | {"logit_scale": torch.tensor(4.6)}
    if family == "quickgelu":
        state = {name: value.half() if value.ndim > 1 else value for name, value in state.items()}
        state |= {"input_resolution": torch.tensor(16), "context_length": torch.tensor(77)}
        state |= {"vocab_size": torch.tensor(49408)}
    torch.save(state, folder / f"{family}.pt")
    return folder / f"{family}.pt", state


@pytest.mark.parametrize("family", ["quickgelu", "gelu"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_starts_from_the_weights_with_their_own_activation(tmp_path, method, family):
    weights, state = archive(tmp_path, family)
    more = 'division = "none"' if method == "rde" else ""
    tower = "{patch=8, width=64, layers=1, embed=64, text_width=64, text_layers=1}"
    sets = (f"method.weights={weights}", f"method.tower={tower}", "train.epochs=1", "data.augment=false")
    recipe = tiny_recipe(tmp_path, method, more, sets=sets)
    write_set(tmp_path / "CUHK-PEDES", cuhk_records(persons=(3, 1, 1)))  # 12 pairs: one step
    run = train(recipe, data_root=tmp_path, out=tmp_path / "run", device="cpu", workers=0)
    model = open_model(run, device="cpu")
    assert model.recipe.method.sizes.activation == family
    table = model.method.clip.token_embedding.weight.detach()
    far = (table - state["token_embedding.weight"].float()).abs().max()
    assert far < 0.05, f"the word table is {far:.3f} from the archive's: it was drawn anew"
