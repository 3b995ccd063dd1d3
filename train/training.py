"""The trainings of a recipe: the expert, and a directly tuned reference of each base that asks."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from decode.jobs.folder import RunFolder
from decode.models.model_source import ModelSource
from decode.stage.recipe_models import starting_model
from recipes.schema.recipe import Base, Recipe

from .proxy_loss import ProxyTarget, proxy_target


@dataclass(frozen=True, slots=True)
class Training:
    """One model to fine-tune, and where the result goes.

    Attributes:
        target: folder of the adapter or whole weights and the tokenizer; it exists when complete.
        checkpoints: folder of the checkpoints, until the training is complete.
        model: what the training starts from.
        settings: the keys of TRL's trainer.
        prefix: of its curves' names.
        proxy_aware: the steered base whose output the loss is taken on; None is the model's own.
        of_reference: the keys of `settings` that decode.reference_sft sets, or reference_dpo.
        method: the section of the recipe that has the settings.
    """

    target: Path
    checkpoints: Path
    model: ModelSource
    adapter: dict[str, Any] | None
    settings: dict[str, Any]
    prefix: str
    proxy_aware: ProxyTarget | None = None
    of_reference: frozenset[str] = frozenset()
    method: Literal["sft", "dpo"] = "sft"

    @property
    def is_complete(self) -> bool:
        return self.target.exists()

    @contextmanager
    def naming_keys(self) -> Iterator[None]:
        """A block whose ValueErrors, which say `sft.`, name keys as the recipe has them."""
        try:
            yield
        except ValueError as error:
            text = re.sub(r"(?<![\w.])sft\.(\w+)", self._place, str(error))
            raise ValueError(text) from error

    def _place(self, key: re.Match[str]) -> str:
        own = f"{self.method}.{key[1]}"
        return f"decode.reference_{own}" if key[1] in self.of_reference else own


def trainings(recipe: Recipe) -> list[Training]:
    """The expert unless it is finished, then a reference for every base that asks for one."""
    folder, settings, method = RunFolder(recipe.output_dir), recipe.trainer, recipe.method
    own = getattr(recipe.decode, f"reference_{method}") or {}

    def training(target: Path, model: ModelSource, keys: dict[str, Any], prefix: str) -> Training:
        place, adapter = folder.checkpoints(target), recipe.expert.adapter
        return Training(target, place, model, adapter, keys, prefix, method=method)

    small = starting_model(recipe.expert, "expert")
    expert = training(folder.expert, small, settings, "train")
    expert = replace(expert, proxy_aware=proxy_target(recipe))
    return [
        *([] if recipe.expert.trained is not None else [expert]),
        *(
            replace(
                training(
                    folder.reference(base.slug),
                    starting_model(base, f"decode.bases.{index}"),
                    {**settings, **own},
                    f"reference/{base.slug}",
                ),
                of_reference=frozenset(own),
            )
            for index, base in enumerate(recipe.decode.bases)
            if isinstance(base, Base) and base.tune_reference
        ),
    ]
