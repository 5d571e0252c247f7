"""Compiled blocks: the same step, dropout included, whatever the captions' lengths."""

import pytest
import torch
from support.ranks import pairs, stepper
from support.training import prepared, tiny_recipe, write_data

from tbps_cli import methods
from tbps_cli.engine.components import compile_blocks
from tbps_cli.types import Step

# PyTorch's compiler warns of PyTorch: of parts that it imports, and of gradients that it looks at itself
pytestmark = pytest.mark.filterwarnings("ignore")
QUICK, MADE = (), ("irra", "tbps_clip")


@pytest.fixture(autouse=True)
def fresh():
    yield
    torch._dynamo.reset()


def compared(name: str, backend: str) -> None:
    """Three steps of both: compiled once, met again, and met with captions of other lengths."""
    plain, compiled = stepper(name), stepper(name)
    compile_blocks(compiled.method, backend)
    for number, rows in enumerate((12, 12, 9)):
        one, two = (made([pairs(rows, number)], Step(1, number, 4, 9)).losses for made in (plain, compiled))
        for key, value in one.items():
            assert two[key].item() == pytest.approx(value.item(), rel=2e-5), f"step {number}: {key}"
    for (key, value), other in zip(
        plain.method.state_dict().items(), compiled.method.state_dict().values(), strict=True
    ):
        one, two = value.double(), other.double()
        assert (one - two).abs().max() <= 1e-4 * max(one.abs().max(), 1e-2), key


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in methods.names()]
)
@pytest.mark.timeout(300)
def test_compiled_blocks_take_the_same_steps(name) -> None:
    """Traced and differentiated ahead, without making machine code of it."""
    compared(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", MADE)
def test_machine_code_takes_the_same_steps(name) -> None:
    """Dropout too: its draws are PyTorch's own, not the compiler's."""
    compared(name, "inductor")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", methods.names())
def test_machine_code_takes_the_same_steps_on_a_gpu(name) -> None:
    plain, compiled = stepper(name), stepper(name)
    compile_blocks(compiled.method)
    found = []
    for made in (plain, compiled):
        made.method.to("cuda")
        made.device = torch.device("cuda")
        found.append(made.backward(pairs(12, 0), Step(1, 0, 4, 9)).losses)
    assert {key: value.item() for key, value in found[1].items()} == pytest.approx(
        {key: value.item() for key, value in found[0].items()}, rel=1e-3
    )


def test_the_key_compiles_every_block_and_nothing_else(tmp_path) -> None:
    write_data(tmp_path)
    recipe = tiny_recipe(tmp_path, "irra", sets=("train.compile=true",))
    built = prepared(recipe, tmp_path).method
    compiled = [name for name, module in built.named_modules() if module._compiled_call_impl is not None]
    assert len(compiled) == 6 and all(".resblocks." in name for name in compiled)
