"""Options of foreign checkpoints: what is missing or of another type reads as absent."""

import pytest

from tbps_cli.weights.foreign import OfficialFiles, pair_of_sides


def files(**options: object) -> OfficialFiles:
    return OfficialFiles({}, options, "best.pth")


@pytest.mark.parametrize("value", [None, True, 0, -3, "16", [16], float("nan"), float("inf")])
def test_only_a_number_above_0_is_a_number(value):
    assert files(stride_size=value).number("stride_size") is None
    assert files(stride_size=value).numbers({"stride": ("stride_size", int)}) == {}


def test_numbers_come_under_our_keys_and_in_their_type():
    table = {"stride": ("stride_size", int), "temperature": ("temperature", float), "top_k": ("topk", int)}
    found = files(stride_size=16.0, temperature=1).numbers(table)
    assert found == {"stride": 16, "temperature": 1.0}
    assert [type(value) for value in found.values()] == [int, float]


def test_nested_options_are_found_and_a_wrong_turn_finds_nothing():
    nested = files(MODEL={"MOCO": {"M": 0.99}}, INPUT=[384, 128])
    assert nested.at("MODEL", "MOCO", "M") == 0.99
    assert nested.at("MODEL", "MOCO", "K") is None and nested.at("INPUT", "HEIGHT") is None
    assert nested.number("MODEL", "MOCO", "M") == 0.99


def test_losses_are_those_of_the_options_else_the_published():
    assert files(loss_names="sdm+id").losses("sdm+aux") == ["sdm", "id"]
    assert files().losses("sdm+aux") == ["sdm", "aux"]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ([384, 128], (384, 128)),
        ((384, 128), (384, 128)),
        ([384], None),
        ([384, 0], None),
        ([384.0, 128], None),
        ("384x128", None),
        (None, None),
    ],
)
def test_an_image_size_is_two_whole_numbers_above_0(value, size):
    assert pair_of_sides(value) == files(img_size=value).image_size() == size
