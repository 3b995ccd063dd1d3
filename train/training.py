"""What a recipe trains: the expert, and a directly tuned reference for every base that asks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decode.folder import RunFolder
from recipes.schema import Base, Expert, Recipe


@dataclass(frozen=True, slots=True)
class Training:
    """One model to fine-tune, and where the result goes.

    Attributes:
        target: an adapter or whole weights, with the tokenizer; there when it is complete.
        checkpoints: where the unfinished training is kept.
        prefix: what its curves are called by.
    """

    target: Path
    checkpoints: Path
    model: Expert | Base
    adapter: dict[str, Any] | None
    sft: dict[str, Any]
    prefix: str

    @property
    def is_complete(self) -> bool:
        return self.target.exists()


def trainings(recipe: Recipe) -> list[Training]:
    """The expert unless it is finished, then a reference for every base that asks for one."""
    folder, sft = RunFolder(recipe.output_dir), recipe.sft or {}
    reference_sft = {**sft, **(recipe.decode.reference_sft or {})}

    def training(target: Path, model: Expert | Base, sft: dict[str, Any], prefix: str) -> Training:
        place = folder.checkpoints(target)
        return Training(target, place, model, recipe.expert.adapter, sft, prefix)

    expert = [training(folder.expert, recipe.expert, sft, "train")]
    return [
        *([] if recipe.expert.trained is not None else expert),
        *(
            training(folder.reference(base.slug), base, reference_sft, f"reference/{base.slug}")
            for base in recipe.decode.bases
            if base.tune_reference
        ),
    ]


def claim(recipe: Recipe, rows_digest: str) -> None:
    """Refuse to go on with training that was started under another recipe.

    Args:
        rows_digest: a short name for what is trained on.

    Raises:
        SettingsChanged: names the keys that differ.
    """
    for training in trainings(recipe):
        settings = {
            "model": {"name": training.model.model, "revision": training.model.revision},
            "dtype": training.model.dtype,
            "adapter": training.adapter,
            "sft": training.sft,
            "seed": recipe.seed,
            "training rows": rows_digest,
        }
        RunFolder(recipe.output_dir).claim(training.target, settings)
