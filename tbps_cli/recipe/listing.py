"""What is known of a recipe without training it: published scores, protocol, parameter counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tbps_cli import methods
from tbps_cli.data.open import find_layout
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.recipe.load import load
from tbps_cli.recipe.names import list_recipes
from tbps_cli.recipe.schema import Recipe
from tbps_cli.types import Scores, Task


@dataclass(frozen=True)
class Parameters:
    """Parameter counts of one method: of everything, of what is trained, of what inference needs."""

    all: int
    trained: int
    inference: int


@dataclass(frozen=True)
class ListedRecipe:
    """One recipe as a row of `tbps recipes`."""

    name: str
    recipe: Recipe
    parameters: Parameters

    @property
    def chance(self) -> float | None:
        """`Published.chance` on the data set's test captions; None where nothing is published."""
        published, layout = self.recipe.published, find_layout(self.recipe.data.name)
        if published is None or layout is None or "test" not in layout.counts:
            return None
        return published.chance(layout.counts["test"][2])

    def document(self) -> dict[str, object]:
        """The row as JSON-able values; scores are percent, null where nothing is published."""
        recipe, published = self.recipe, self.recipe.published
        scores = published.model_dump() if published else {}
        return {
            "name": self.name,
            "method": recipe.method.name,
            "paper": published.paper if published else None,
            "venue": published.venue if published else None,
            "year": published.year if published else None,
            "data": recipe.data.name,
            **{name: scores.get(name) for name in Scores._fields},
            "R1_chance": None if self.chance is None else round(self.chance, 2),
            "selected_on": recipe.train.select_on,
            "parameters": self.parameters.all,
            "trained": self.parameters.trained,
            "inference": self.parameters.inference,
            "note": recipe.note,
        }


def catalogue() -> list[ListedRecipe]:
    """Every shipped recipe."""
    return [entry(name) for name in list_recipes()]


def entry(name: str) -> ListedRecipe:
    """One recipe by shipped name or path."""
    recipe = load(name)
    return ListedRecipe(name, recipe, count_parameters(recipe))


def count_parameters(recipe: Recipe) -> Parameters:
    """The counts at full size, without memory for them (built on the meta device).

    An identity classifier has as many classes as the data set's official train split has persons; data whose
    size is not known beforehand has none.
    """
    layout = find_layout(recipe.data.name)
    identities = layout.counts.get("train", (0,))[0] if layout else 0
    return _counted(recipe.method, Task(recipe.data.image_size, identities))


@cache
def _counted(config: MethodConfig, task: Task) -> Parameters:
    """Many recipes differ in data and training only: each model is built once."""
    with shapes_alone():
        method = methods.find(config.name)(config, task)
    sizes = {name: parameter.numel() for name, parameter in method.named_parameters()}
    frozen = sum(size for name, size in sizes.items() if method.group_of(name).rate == "frozen")
    extra = sum(size for name, size in sizes.items() if name.startswith(method.training_only))
    total = sum(sizes.values())
    return Parameters(total, total - frozen, total - extra)
