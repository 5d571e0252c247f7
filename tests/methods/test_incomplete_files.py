"""Foreign checkpoints that lack a tensor: recognised without it, refused with a message, or not theirs."""

import re

import pytest
from safetensors.torch import load_file
from support.experts import GOLDEN

from tbps_cli import methods
from tbps_cli.errors import WeightsError
from tbps_cli.methods.config import MethodConfig
from tbps_cli.weights.foreign import OfficialFiles

REPEATED = re.compile(r"(resblocks|layer[1-4])\.\d+|key|encoder_[qk]|experts")
"""Of repeated blocks and copies one that is whole tells enough."""
SIZES = {"php": [64, 32], "comoe": [64, 32], "eccl": [48, 16], "textreid": [64, 32]}


@pytest.mark.parametrize("name", [name for name in methods.names() if name != "clip"])
def test_a_file_without_any_one_tensor_never_ends_in_a_traceback(name):
    weights, method = load_file(GOLDEN / name / "weights.safetensors"), methods.find(name)
    options = {"img_size": SIZES.get(name, [96, 32]), "moe_heads": 4, "nam": name == "ga_dms"}
    options = {} if name == "tbps_clip" else options
    assert method.recognise(OfficialFiles(weights, options, "best.pth")) is not None
    for absent in weights:
        if REPEATED.search(absent):
            continue
        rest = {key: tensor for key, tensor in weights.items() if key != absent}
        try:
            found = method.recognise(OfficialFiles(rest, options, "best.pth"))
        except WeightsError:
            continue
        assert found is None or isinstance(found, MethodConfig), absent
