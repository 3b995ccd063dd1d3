"""Speed and memory of training an expert, beside a bare TRL script on the same rows, in turns.

    python benchmarks/train.py recipes/mini/gsm.yaml
    python benchmarks/train.py recipes/mini/gsm.yaml --variant packing checkpointing
    python benchmarks/train.py recipes/gsm_qwen.yaml expert.model=FOLDER task.train=train.jsonl
    python benchmarks/train.py recipes/gsm_qwen.yaml --random-size 1b expert.model=data/mini/small \
        task.train=train.jsonl --variant packing padding_free liger

(a) bare_trl.py, (b) our_training.py, (c) ours with the recipe changed in one way: packing,
padding_free, liger, checkpointing. First each runs alone and logs every step: (a) and (b) must have
the same losses, bit for bit; start-up, saving and peak memory are those of this run. Then (a) and
(b) run side by side, and (b) and each of (c), in two processes that take turns, a step each: what
else a machine does falls on both. Without a GPU all run on one core. Tokens count no padding.
With `--random-size` the model is a Llama of that size with random weights and the tokenizer of
`expert.model`. Beside the peak stands what `train/memory.py` computes, for a GPU's tensors.
Ratios are of tokens per second after the first few steps, a round each: by the median step, which
other work on the machine hardly moves, and by all steps together, which also sees what is rare.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = ROOT = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.random_models import SIZES, random_model
from benchmarks.record import record, where
from benchmarks.step_clock import TURNS
from decode.models.model_source import ModelSource
from decode.models.sources import load_config, load_tokenizer, weights_dtype
from decode.stage.planning import plan
from recipes.schema.recipe import Recipe, RecipeError, load_recipe
from train.footprint.sharding import Sharding
from train.footprint.training_memory import training_memory
from train.rows.training_rows import training_rows
from train.training import trainings

BARE, OURS = "bare TRL", "ours"
VARIANTS: dict[str, dict[str, Any]] = {
    "packing": {"packing": True},
    "padding_free": {"padding_free": True, "max_length": None},
    "liger": {"use_liger_kernel": True},
    "checkpointing": {"activation_checkpointing": True},
}
Measured = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


def compare(arguments: argparse.Namespace, place: Path) -> None:
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        if arguments.random_size is not None:
            model = save_random(arguments.random_size, recipe.expert.model, place / "model")
            arguments.overrides += [f"expert.model={model}", "expert.revision=null"]
            recipe = load_recipe(arguments.recipe, arguments.overrides)
        if recipe.sft is None or recipe.expert.trained is not None:
            raise ValueError(f"{arguments.recipe}: trains no expert, so there is nothing to time")
        rows = training_rows(recipe, [experiment for experiment, _ in plan(recipe)]).rows
    except (RecipeError, ValueError) as error:
        sys.exit(f"error: {error}")
    if not torch.cuda.is_available():
        os.sched_setaffinity(0, {arguments.core})  # whatever is started from here inherits it
    lines = (json.dumps(asdict(row)) + "\n" for row in rows)
    (place / "rows.jsonl").write_text("".join(lines))
    alone = {}
    for name in (BARE, OURS, *arguments.variant):
        start(name, recipe, arguments, {"logging_steps": 1}, place).wait(alone)
    check_losses(alone[BARE], alone[OURS])
    pairs = [(OURS, BARE), *((name, OURS) for name in arguments.variant)]
    rounds: dict[str, list[dict[str, Measured]]] = {name: [] for name, _ in pairs}
    for number in range(arguments.repeats):
        for pair in pairs:
            order = pair if number % 2 else pair[::-1]
            rounds[pair[0]].append(side_by_side(order, recipe, arguments, place))
        print(f"round {number + 1} of {arguments.repeats} done", file=sys.stderr)
    systems = summary(alone, rounds, arguments.warmup)
    for name, measured in systems.items():
        measured["computed_bytes"] = computed_bytes(arguments, VARIANTS.get(name, {}))
    report = record(arguments, {"systems": systems})
    print_table(report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="what its expert is trained from and how")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
    parser.add_argument("--random-size", choices=SIZES, help="of a model with random weights")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=5, help="first steps that are not timed")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--variant", nargs="*", default=[], choices=VARIANTS)
    last = max(os.sched_getaffinity(0))
    parser.add_argument("--core", type=int, default=last, help="where everything runs, on a CPU")
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    if arguments.warmup >= arguments.steps:
        parser.error("--warmup must be below --steps")
    is_there = importlib.util.find_spec("liger_kernel") is not None and torch.cuda.is_available()
    if "liger" in arguments.variant and not is_there:
        parser.error("--variant liger needs a GPU and `pip install liger-kernel`")
    return arguments


def save_random(size: str, tokenizer: str, folder: Path) -> str:
    """The folder, in which there is now a random model with another model's tokenizer."""
    random_model(size, 32_000, torch.device("cpu"), torch.bfloat16).save_pretrained(folder)
    load_tokenizer(ModelSource(tokenizer)).save_pretrained(folder)
    return str(folder)


def computed_bytes(arguments: argparse.Namespace, changes: dict[str, Any]) -> int | None:
    """What `train/memory.py` computes for the training on one GPU; None where it cannot."""
    given = {key: value for key, value in changes.items() if value is not None}  # rows' length
    changed = [f"sft.{key}={json.dumps(value)}" for key, value in given.items()]
    training = trainings(load_recipe(arguments.recipe, [*arguments.overrides, *changed]))[0]
    config = load_config(training.model)
    dtype = weights_dtype(training.model, config)
    try:
        return training_memory(config, dtype, training.settings, training.adapter, Sharding()).total
    except ValueError:  # rows without a limit, an optimizer whose memory is not known
        return None


class Started:
    """A training in a process of its own."""

    def __init__(self, name: str, command: list[str], clock: Path, **options: Any) -> None:
        self.name, self.clock, self.begun_at = name, clock, time.time()
        self.errors = clock.with_suffix(".err")
        with self.errors.open("w") as errors:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": errors}
            self.process = subprocess.Popen([sys.executable, *command], **quiet, **options)

    def wait(self, into: dict[str, Measured]) -> None:
        """Add what its clock wrote, and the seconds before and after, under its name."""
        if self.process.wait():
            sys.exit(f"error: {self.name} failed\n{self.errors.read_text()[-4000:]}")
        measured = json.loads(self.clock.read_text())
        measured["startup_s"] = measured["began_at"] - self.begun_at
        measured["finish_s"] = time.time() - measured["ended_at"]
        into[self.name] = measured


def start(
    name: str,
    recipe: Recipe,
    arguments: argparse.Namespace,
    changes: dict[str, Any],
    place: Path,
    turns: tuple[int, int] | None = None,
) -> Started:
    """One training, begun; with `turns`, it waits for its turn at every step."""
    output, clock = place / name, place / f"{name}.json"
    shutil.rmtree(output, ignore_errors=True)
    changes = {"max_steps": arguments.steps, **changes, **VARIANTS.get(name, {})}
    if name == BARE:
        script, settings = "bare_trl.py", place / "settings.json"
        settings.write_text(json.dumps(bare_settings(recipe, changes, output)))
        given = [str(settings), str(clock)]
    else:
        script = "our_training.py"
        ours = [f"output_dir={output}", *(f"sft.{k}={json.dumps(v)}" for k, v in changes.items())]
        epochs = "sft.num_train_epochs=null"  # the steps end it
        given = [arguments.recipe, str(clock), epochs, *arguments.overrides, *ours]
    defaults = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = {**defaults, **os.environ, "HF_DATASETS_CACHE": str(place / "cache")}
    if turns is not None:
        environment[TURNS] = f"{turns[0]} {turns[1]}"
    command = [f"{ROOT}/benchmarks/{script}", *given]
    return Started(name, command, clock, env=environment, pass_fds=turns or ())


def side_by_side(
    names: tuple[str, str], recipe: Recipe, arguments: argparse.Namespace, place: Path
) -> dict[str, Measured]:
    """Two trainings that take turns, the first beginning."""
    (read_first, write_first), (read_second, write_second) = os.pipe(), os.pipe()
    turns = ((read_first, write_second), (read_second, write_first))
    both = [
        start(name, recipe, arguments, {}, place, own)
        for name, own in zip(names, turns, strict=True)
    ]
    os.write(write_first, b".")
    for descriptor in (read_first, write_first, read_second, write_second):
        os.close(descriptor)  # else one would wait for ever when the other fails
    done: dict[str, Measured] = {}
    for one in both:
        one.wait(done)
    return done


def bare_settings(recipe: Recipe, changes: dict[str, Any], output: Path) -> dict[str, Any]:
    """What the recipe says of its expert, as arguments of TRL's own classes."""
    expert = recipe.expert
    fixed = {"seed": recipe.seed, "output_dir": str(output), "report_to": "none"}
    load = {"dtype": expert.dtype, "revision": expert.revision}
    given = {"use_cpu": not torch.cuda.is_available(), "model_init_kwargs": load}
    return {
        "seed": recipe.seed,
        "model": expert.model,
        "rows": str(output.parent / "rows.jsonl"),
        "adapter": expert.adapter and {"task_type": "CAUSAL_LM", **expert.adapter},
        "target": str(output / "expert"),
        "sft": {**given, **(recipe.sft or {}), **changes, **fixed},
    }


def check_losses(bare: Measured, ours: Measured) -> None:
    """Exit unless both have trained the same, step for step."""
    for theirs, own in zip(bare["log"], ours["log"], strict=True):
        for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens"):
            if theirs[key] != own[key]:
                at = f"step {own['step']}: {key} {own[key]}, the bare script's {theirs[key]}"
                sys.exit(f"error: not the same training; {at}")


def summary(
    alone: dict[str, Measured], rounds: dict[str, list[dict[str, Measured]]], warmup: int
) -> dict[str, dict[str, Any]]:
    """Rates of every round by system, and ratios to the system it took turns with."""
    systems: dict[str, dict[str, Any]] = {}
    for name, measured in alone.items():
        counts = {entry["step"]: entry["num_tokens"] for entry in measured["log"]}
        systems[name] = {
            "tokens_per_step": (counts[max(counts)] - counts[warmup]) / (max(counts) - warmup),
            "tokens_per_second": [],
            "step_s": [],
            "losses": [entry["loss"] for entry in measured["log"]],
            **{key: measured[key] for key in ("peak_bytes", "startup_s", "finish_s")},
        }
    for name, pairs in rounds.items():
        ratios: dict[str, list[float]] = {"over": [], "over_in_all": []}
        for pair in pairs:
            other = next(key for key in pair if key != name)
            for key, middle in (("over", statistics.median), ("over_in_all", statistics.fmean)):
                own_s, other_s = (middle(pair[one]["steps"][warmup:]) for one in (name, other))
                own_rate = systems[name]["tokens_per_step"] / own_s
                ratios[key].append(own_rate * other_s / systems[other]["tokens_per_step"])
            for one in pair:
                seconds = pair[one]["steps"][warmup:]
                rate = systems[one]["tokens_per_step"] / statistics.fmean(seconds)
                systems[one]["tokens_per_second"].append(rate)
                systems[one]["step_s"].append(statistics.median(seconds))
        systems[name] |= ratios
    return systems


def print_table(report: dict[str, Any]) -> None:
    settings, systems = report["settings"], report["systems"]
    print(
        f"\n{where(report)}; {settings['recipe']}, {settings['steps'] - settings['warmup']} steps "
        f"a round, {settings['repeats']} rounds; losses of {BARE} and {OURS} equal\n"
    )
    print(
        f"{'':14}{'tokens/step':>12}{'tokens/s':>10}{'step ms':>9}{'peak MiB':>10}{'computed':>10}",
        end="",
    )
    print(f"{'start s':>9}{'save s':>8}   tokens/s over         all steps together")
    for name, own in systems.items():
        rate, step_s = (statistics.median(own[key]) for key in ("tokens_per_second", "step_s"))
        line = f"{name:14}{own['tokens_per_step']:12,.0f}{rate:10,.0f}{step_s * 1e3:9.1f}"
        computed = own["computed_bytes"]
        line += f"{own['peak_bytes'] / 2**20:10,.0f}"
        line += f"{'-' if computed is None else format(computed / 2**20, ',.0f'):>10}"
        line += f"{own['startup_s']:9.1f}{own['finish_s']:8.1f}"
        if name != BARE:
            line += f"   {spread(own['over'])}  {spread(own['over_in_all'])}  "
            line += BARE if name == OURS else OURS
        print(line)


def spread(ratios: list[float]) -> str:
    """The median of some ratios and their range."""
    return f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


if __name__ == "__main__":
    main()
