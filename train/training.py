"""The trainings of a recipe: the expert, and a directly tuned reference of each base that asks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from decode.jobs.folder import RunFolder
from decode.models.sources import ModelSource
from decode.stage.recipe_models import untuned_model
from recipes.schema.recipe import Base, Recipe

from .proxy_loss import ProxyTarget, proxy_target


@dataclass(frozen=True, slots=True)
class Training:
    """One model to fine-tune, and where the result goes.

    Attributes:
        target: folder of the adapter or whole weights and the tokenizer; it exists when complete.
        checkpoints: folder of the checkpoints, until the training is complete.
        prefix: of its curves' names.
        proxy_aware: the steered base whose output the loss is taken on; None is the model's own.
        of_reference: the keys of `sft` that decode.reference_sft sets.
    """

    target: Path
    checkpoints: Path
    model: ModelSource
    adapter: dict[str, Any] | None
    sft: dict[str, Any]
    prefix: str
    proxy_aware: ProxyTarget | None = None
    of_reference: frozenset[str] = frozenset()

    @property
    def is_complete(self) -> bool:
        return self.target.exists()

    @contextmanager
    def naming_keys(self) -> Iterator[None]:
        """A block whose ValueErrors name the keys of `sft` as the recipe has them."""
        try:
            yield
        except ValueError as error:
            text = re.sub(r"(?<![\w.])sft\.(\w+)", self._place, str(error))
            raise ValueError(text) from error

    def _place(self, key: re.Match[str]) -> str:
        return f"decode.reference_{key[0]}" if key[1] in self.of_reference else key[0]


def trainings(recipe: Recipe) -> list[Training]:
    """The expert unless it is finished, then a reference for every base that asks for one."""
    folder, sft = RunFolder(recipe.output_dir), recipe.sft or {}
    own = recipe.decode.reference_sft or {}

    def training(target: Path, model: ModelSource, sft: dict[str, Any], prefix: str) -> Training:
        place = folder.checkpoints(target)
        return Training(target, place, model, recipe.expert.adapter, sft, prefix)

    small = untuned_model(recipe.expert, "expert.model")
    expert = replace(training(folder.expert, small, sft, "train"), proxy_aware=proxy_target(recipe))
    return [
        *([] if recipe.expert.trained is not None else [expert]),
        *(
            replace(
                training(
                    folder.reference(base.slug),
                    untuned_model(base, f"decode.bases.{index}.model"),
                    {**sft, **own},
                    f"reference/{base.slug}",
                ),
                of_reference=frozenset(own),
            )
            for index, base in enumerate(recipe.decode.bases)
            if isinstance(base, Base) and base.tune_reference
        ),
    ]
