"""Entry: the GPU memory that a recipe's trainings and decoding take, computed without weights.

    python train/memory.py [--config_file ACCELERATE.yaml] RECIPE.yaml [section.key=value ...]

Only the models' configs are read. The accelerate file says how many GPUs share the work and which
ZeRO stage divides what; without it the training is one GPU's. Rows are taken to be as long as the
recipe allows: the override `sft.max_length=512` asks about shorter ones. The formula of a training
is in train/footprint/training_memory.py. Decoding is given over all GPUs together; if the base is
spread over several, the first GPU has the small models. CUDA, NCCL and fragmentation take a GiB or
two more.
"""

import argparse
import warnings
from dataclasses import replace

from data import TASKS
from decode.jobs.faults import doing
from decode.models.sources import load_config, weights_dtype
from decode.stage.command import HelpFormatter, entry, user_errors
from decode.stage.recipe_models import untuned_model
from recipes.schema.recipe import Base, Evaluation, Recipe, load_recipe
from train.footprint.decoding_memory import decoding_memory
from train.footprint.sharding import Sharding, read_sharding
from train.footprint.training_memory import Memory, training_memory
from train.training import Training, trainings

GIB = 1 << 30
PROMPT_TOKENS = 256  # in decoding; the prompts of most tasks are shorter


@entry()
def main() -> None:
    """Recipe, configs, a table of trainings, a table of decoding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--config_file", help="an accelerate file, as `accelerate launch` reads it")
    parser.add_argument("recipe", help="a YAML file, such as recipes/gsm7b.yaml")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    with user_errors(ValueError):
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        file = arguments.config_file
        sharding = Sharding() if file is None else read_sharding(file)
        rows = [(training, _of(training, sharding)) for training in trainings(recipe)]
        decodings = _decodings(recipe)
    print_trainings(sharding, rows)
    print_decoding(recipe, decodings)


def print_trainings(sharding: Sharding, rows: list[tuple[Training, Memory]]) -> None:
    """Print the table of trainings."""
    zero = "" if sharding.stage is None else f", ZeRO-{sharding.stage}"
    print(f"{sharding.num_gpus} GPU(s){zero}; computed, not measured; GiB on each GPU\n")
    columns = ("weights", "gradients", "optimizer", "activations", "buffers", "total")
    print(f"{'training':40}{'trained':>9}" + "".join(f"{column:>13}" for column in columns))
    for training, memory in rows:
        name = f"{training.prefix.partition('/')[0]}: {training.model.name}"
        values = (getattr(memory, column) / GIB for column in columns)
        print(f"{name:40.40}{memory.num_trained / 1e6:8,.0f}M", end="")
        print("".join(f"{value:13.1f}" for value in values))


def print_decoding(recipe: Recipe, decodings: list[tuple[Base, tuple[int, ...]]]) -> None:
    """Print the table of decoding."""
    rows = f"{recipe.decode.batch_size} rows of {_row_tokens(recipe):,} tokens"
    print(f"\n{f'decoding, {rows}':49}", end="")
    columns = ("base", "its cache", "small models", "their caches", "in all")
    print("".join(f"{column:>13}" for column in columns))
    for base, parts in decodings:
        values = (part / GIB for part in (*parts, sum(parts)))
        print(f"{base.model:49.49}" + "".join(f"{value:13.1f}" for value in values))


def _row_tokens(recipe: Recipe) -> int:
    ours = (one for one in recipe.evaluations if isinstance(one, Evaluation))
    longest = max(TASKS[evaluation.name].max_new_tokens for evaluation in ours)
    thinking = recipe.decode.thinking
    budget = 0 if thinking is None else thinking.max_tokens or 0
    return PROMPT_TOKENS + (recipe.decode.max_new_tokens or longest) + budget


def _decodings(recipe: Recipe) -> list[tuple[Base, tuple[int, ...]]]:
    """Every base that is loaded, and what decoding with it takes."""
    small, is_adapter = untuned_model(recipe.expert, "expert.model"), recipe.expert.adapter
    found = []
    for index, base in enumerate(recipe.decode.bases):
        if isinstance(base, Base):
            large = untuned_model(base, f"decode.bases.{index}.model")
            with doing(f"computing the memory of decoding with {base.model}"):
                parts = decoding_memory(
                    large,
                    small,
                    is_adapter is not None,
                    recipe.decode.batch_size,
                    _row_tokens(recipe),
                )
            found.append((base, parts))
    return found


def _of(training: Training, sharding: Sharding) -> Memory:
    model = training.model
    with doing(f"reading the config of {model.name}"):
        config = load_config(model)
        loaded = config, weights_dtype(model, config)
    settings, is_pairs = training.settings, training.method == "dpo"
    if is_pairs:  # two rows to each of the batch
        batch_size = 2 * settings.get("per_device_train_batch_size", 8)
        settings = {**settings, "per_device_train_batch_size": batch_size}
    with (
        doing(f"computing the memory of training {training.model.name}"),
        training.naming_keys(),
    ):
        memory = training_memory(*loaded, settings, training.adapter, sharding)
    if is_pairs and training.adapter is None and not settings.get("precompute_ref_log_probs"):
        return replace(memory, weights=2 * memory.weights)  # and those of the reference
    return memory


if __name__ == "__main__":
    main()
