"""The parts of a training, built from an experiment that is decided: the loader of batches and the method.

Nothing is chosen here. The method is built where memory is (`build_method`) and moved to its device when the
processes have met (`to_device`), since all of them start with the weights of the first.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tbps_cli import distributed, methods
from tbps_cli.augment.batched import BatchAugmenter
from tbps_cli.data.types import Split
from tbps_cli.engine.start import Start
from tbps_cli.errors import RecipeError
from tbps_cli.loading.image_store import Store
from tbps_cli.loading.loader import Loader
from tbps_cli.methods.base import Method, TextInput, Views
from tbps_cli.models.states import check_tokens
from tbps_cli.nn.block import Block, Transformer
from tbps_cli.nn.imagenet import ImageNetResNet
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.resnet import Bottleneck, ResNet
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task


def build_loader(
    recipe: Recipe, split: Split, views: Views, tokenizer: Tokenizer, store: Store | None, device: torch.device
) -> Loader:
    """The loader of micro-batches: with accumulation, the losses see `batch / accumulate` pairs at a time.

    recipe: without any "auto". store: the decoded images, when it reads them.
    """
    data, train, ranks = recipe.data, recipe.train, distributed.environment()
    assert isinstance(train.workers, int) and data.sampler != "auto"
    augmenter = None
    if data.augment_on == "device":
        assert store is not None  # `data.find_store` and `resolve` see to it
        augmenter = BatchAugmenter(store, split.paths, device)
    return Loader(
        split,
        views,
        tokenizer,
        data.image_size,
        batch=train.batch // train.accumulate,
        seed=train.seed,
        workers=train.workers,
        rank=ranks.rank,
        world=ranks.world,
        sampler=data.sampler,
        per_identity=data.per_identity,
        drop_last=views.drop_last,
        augmented=data.augment,
        store=store,
        augmenter=augmenter,
        max_pixels=data.max_pixels,
        pin=device.type == "cuda",
    )


def build_method(recipe: Recipe, split: Split, start: Start, text: TextInput, data_root: Path) -> tuple[Method, str]:
    """The method on the CPU with the weights that it starts from, and a sentence about them (may be empty).

    text: what `Method.text_input` found beside the weights. Raises WeightsError when the weights do not suit the
    method, or know fewer tokens than captions may hold.
    """
    task = Task(recipe.data.image_size, split.identities, len(split), tuple(split.class_of.tolist()))
    method = methods.find(recipe.method.name)(recipe.method, task)
    owner = f"--init {start.init.path}" if start.init else "method.tower"
    check_tokens(len(method.state_dict()[method.token_table]), text.tokenizer, owner)
    method.initialise(torch.Generator().manual_seed(recipe.train.seed))
    note = start.give(method, text.tokenizer, data_root)
    method.load_state_dict(text.tensors, strict=False)
    if recipe.train.precision == "fp16-pure":
        to_half(method)
    if recipe.train.checkpointing:
        checkpoint_blocks(method)
    if recipe.train.compile:
        compile_blocks(method)
    return method, note


def to_device(method: Method, device: torch.device) -> None:
    """Move a method to its device, with the first process's weights on all of them."""
    method.to(device)
    distributed.broadcast([*method.parameters(), *method.buffers()])
    for module in method.modules():
        if isinstance(module, ResNet | ImageNetResNet):
            # the faster order for convolutions; PyTorch documents the keyword, its stubs lack it
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def checkpoint_blocks(method: Method) -> None:
    """Make every transformer keep its blocks' inputs alone. Raises RecipeError when there is none."""
    transformers = [module for module in method.modules() if isinstance(module, Transformer)]
    if not transformers:
        raise RecipeError(
            f"train.checkpointing: {method.config.name} has no transformer blocks to checkpoint.",
            "Use train.chunk, or a smaller train.batch.",
        )
    for transformer in transformers:
        transformer.checkpointing = True


def compile_blocks(method: Method, backend: str = "inductor") -> None:
    """Let PyTorch compile each repeated block: those of one kind and width share what is made of the first.

    Whole towers would take minutes, and break where sizes depend on what the captions say.
    """
    torch._inductor.config.fallback_random = True  # dropout draws what it draws without compiling
    # one graph for each kind, width, causality, mode and once more when lengths vary; past the limit a block is eager
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for module in method.modules():
        if isinstance(module, Block | Bottleneck):
            module.compile(backend=backend)
