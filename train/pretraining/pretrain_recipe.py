"""The recipe of a pretraining, checked as it is read."""

from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)

from recipes.schema.home import expand_home
from recipes.schema.keys import KeyProblem
from recipes.schema.source import read_tree


class ModelShape(BaseModel):
    """Size of one Llama; keys as transformers.LlamaConfig names them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt


class PretrainRecipe(BaseModel):
    """The whole of a pretraining recipe; rates are peak values, reached after `warmup_steps`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    output_dir: Path
    """Each model goes to <output_dir>/<name>."""
    work_dir: Path
    """Checkpoints and logs; of no use once the models are saved."""
    models: dict[str, ModelShape]
    only: list[str]
    """Which of `models` this run makes, in order."""
    vocab_size: PositiveInt
    """Entries of the tokenizer."""
    num_steps: PositiveInt
    """Optimizer steps of each model."""
    rows_per_step: PositiveInt
    row_tokens: PositiveInt
    """Rows of packed documents, and the models' longest context."""
    warmup_steps: PositiveInt
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    weight_decay: NonNegativeFloat
    checkpoint_steps: PositiveInt
    """A killed run repeats at most so many steps."""


def load_recipe(path: str, overrides: list[str]) -> PretrainRecipe:
    """The recipe in `path` with dotted `overrides`. Raises ValueError, naming file and key."""
    try:
        recipe = PretrainRecipe.model_validate(expand_home(read_tree(Path(path), overrides)))
    except KeyProblem as problem:
        raise ValueError(f"{path}: {problem}") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {key}: {first['msg']}, found {first['input']!r:.80}") from None
    unknown = sorted(set(recipe.only) - set(recipe.models))
    if unknown:
        raise ValueError(f"{path}: only: found {unknown}, models has {sorted(recipe.models)}")
    if recipe.warmup_steps >= recipe.num_steps:
        raise ValueError(
            f"{path}: warmup_steps: found {recipe.warmup_steps}, must be below num_steps "
            f"({recipe.num_steps})"
        )
    return recipe
