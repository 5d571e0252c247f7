"""The weighted sum of IRRA's family and the figures of its log: what is in them, times what."""

import pytest
import torch
from torch import nn

from tbps_cli.losses.contrastive import itc, sdm
from tbps_cli.losses.family import family_figures, family_losses
from tbps_cli.types import Batch

ALL = {"sdm": 1.0, "itc": 5.0, "cmpm": 0.5, "triplet": 2.0, "balance": 0.25, "identity": 3.0, "masked": 0.1}


def drawn() -> tuple[dict[str, torch.Tensor], Batch, nn.Module]:
    draws = torch.Generator().manual_seed(0)
    features = {"image": torch.randn(4, 8, generator=draws), "text": torch.randn(4, 8, generator=draws)}
    features["balance"] = torch.rand(4, 2, 2, 3, generator=draws)
    features["masked_cost"], features["masked_hits"] = torch.tensor([2.0, 0, 1, 3]), torch.tensor([1.0, 0, 1, 1])
    label = torch.tensor([[0, 7, 0], [0, 0, 0], [5, 0, 0], [6, 8, 0]])
    person = torch.tensor([0, 1, 0, 2])
    linear = nn.Linear(8, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 8, generator=draws))
    return features, Batch({}, {"label": label}, person, person, person), linear


def test_each_loss_is_its_own_times_its_weight():
    features, batch, classifier = drawn()
    found = family_losses(features, batch, ALL, temperature=0.1, classifier=classifier)
    plain = family_losses(features, batch, dict.fromkeys(ALL, 1.0), temperature=0.1, classifier=classifier)
    assert list(found) == list(ALL)
    for name, weight in ALL.items():
        assert found[name].item() == pytest.approx(weight * plain[name].item(), rel=1e-6)
    image, text = features["image"], features["text"]
    assert plain["sdm"].item() == pytest.approx(sdm(image, text, batch.person_B, temperature=0.1).item())
    assert found["itc"].item() == pytest.approx(5 * itc(image, text, temperature=0.1).item())
    assert plain["masked"].item() == pytest.approx(6 / 4)


@pytest.mark.parametrize("name", ALL)
def test_a_loss_of_weight_0_or_none_is_not_computed(name):
    features, batch, classifier = drawn()
    others = {key: weight for key, weight in ALL.items() if key != name}
    for weights in (others, others | {name: 0.0}):
        assert set(family_losses(features, batch, weights, temperature=0.1, classifier=classifier)) == set(others)


def test_a_model_without_mixtures_has_no_balance_and_the_identity_loss_asks_for_identities():
    features, batch, classifier = drawn()
    del features["balance"]
    assert "balance" not in family_losses(features, batch, ALL, temperature=0.1, classifier=classifier)
    with pytest.raises(ValueError, match="how many identities"):
        family_losses(features, batch, ALL, temperature=0.1)


def test_the_figures_say_only_what_the_features_know():
    features, batch, classifier = drawn()
    found = family_figures(features, batch, classifier)
    assert list(found) == ["busiest_expert", "idlest_expert", "img_acc", "txt_acc", "mlm_acc"]
    right = (classifier(features["image"]).argmax(1) == batch.person_B).sum().item()
    assert found["img_acc"] == right / 4 and found["mlm_acc"] == 3 / 4
    assert family_figures({key: features[key] for key in ("image", "text")}, batch) == {}
