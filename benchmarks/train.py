"""Speed and memory of training an expert, beside a bare TRL script on the same rows, in turns.

    python benchmarks/train.py recipes/mini/gsm.yaml
    python benchmarks/train.py recipes/mini/gsm.yaml --variant packing checkpointing
    python benchmarks/train.py recipes/gsm_qwen.yaml expert.model=FOLDER task.train=train.jsonl

(a) bare_trl.py, (b) our_training.py, (c) ours with the recipe changed in one way: packing,
padding_free, liger, checkpointing. Each run is a process of its own, on one core if there is no
GPU. The first round logs every step: in it (a) and (b) must have the same losses, bit for bit. The
others are timed, with the recipe's logging and saving. Times are of the steps after the first few:
tokens per second counts no padding; start-up and the saving of the result are given beside it.
Ratios are medians over rounds, of neighbours in time.
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

from benchmarks.record import record, where
from data import TASKS
from recipes.schema import Recipe, RecipeError, load_recipe

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
    try:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        task = TASKS[recipe.task.name]
        rows = task.train_rows(recipe.task.train, recipe.task.train_limit)
    except (RecipeError, ValueError) as error:
        sys.exit(f"error: {error}")
    if recipe.sft is None or recipe.expert.trained is not None:
        sys.exit(f"error: {arguments.recipe}: trains no expert, so there is nothing to time")
    if not torch.cuda.is_available():
        os.sched_setaffinity(0, {arguments.core})  # whatever is started from here inherits it
    names = [BARE, OURS, *arguments.variant]
    rounds: dict[str, list[Measured]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        rows_file = Path(folder) / "rows.jsonl"
        rows_file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        for number in range(arguments.repeats + 1):
            common = {"max_steps": arguments.steps} | ({} if number else {"logging_steps": 1})
            for name in names if number % 2 else reversed(names):
                changes = common | VARIANTS.get(name, {})
                rounds[name].append(run(name, recipe, arguments, changes, Path(folder)))
            print(f"round {number} of {arguments.repeats} done", file=sys.stderr)
            if number == 0:
                check_losses(rounds[BARE][0], rounds[OURS][0])
    report = record(arguments, {"systems": summary(rounds, arguments.warmup)})
    print_table(report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="what its expert is trained from and how")
    parser.add_argument("overrides", nargs="*", help="section.key=value, applied in order")
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


def run(
    name: str, recipe: Recipe, arguments: argparse.Namespace, changes: dict[str, Any], folder: Path
) -> Measured:
    """One training in a process of its own: what its clock wrote, and what came around it."""
    output, clock = folder / "run", folder / "clock.json"
    shutil.rmtree(output, ignore_errors=True)
    if name == BARE:
        script = "bare_trl.py"
        settings = folder / "settings.json"
        settings.write_text(json.dumps(bare_settings(recipe, changes, folder)))
        given = [str(settings), str(clock)]
    else:
        script = "our_training.py"
        ours = [f"output_dir={output}", *(f"sft.{k}={json.dumps(v)}" for k, v in changes.items())]
        given = [arguments.recipe, str(clock), *arguments.overrides, *ours]
    one_thread = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun_at = time.time()
    done = subprocess.run(
        [sys.executable, f"{ROOT}/benchmarks/{script}", *given],
        env={**one_thread, **os.environ, "HF_DATASETS_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    ended_at = time.time()
    if done.returncode:
        sys.exit(f"error: {name} failed\n{done.stderr[-4000:]}")
    measured = json.loads(clock.read_text())
    clock.unlink()
    measured["startup_s"] = measured["began_at"] - begun_at
    measured["finish_s"] = ended_at - measured["ended_at"]
    return measured


def bare_settings(recipe: Recipe, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the recipe says of its expert, as arguments of TRL's own classes."""
    expert, output = recipe.expert, folder / "run"
    theirs = {"seed": recipe.seed, "output_dir": str(output), "report_to": "none"}
    load = {"dtype": expert.dtype, "revision": expert.revision}
    return {
        "seed": recipe.seed,
        "model": expert.model,
        "rows": str(folder / "rows.jsonl"),
        "adapter": expert.adapter,
        "target": str(output / "expert"),
        "sft": {
            "use_cpu": not torch.cuda.is_available(),
            "model_init_kwargs": load,
            **(recipe.sft or {}),
            **changes,
            **theirs,
        },
    }


def check_losses(bare: Measured, ours: Measured) -> None:
    """Exit unless both have trained the same, step for step."""
    for theirs, own in zip(bare["log"], ours["log"], strict=True):
        for key in ("step", "loss", "grad_norm", "learning_rate", "num_tokens"):
            if theirs[key] != own[key]:
                at = f"step {own['step']}: {key} {own[key]}, the bare script's {theirs[key]}"
                sys.exit(f"error: not the same training; {at}")


def summary(rounds: dict[str, list[Measured]], warmup: int) -> dict[str, dict[str, Any]]:
    """Rates and memory of every timed round, by system, and ratios to its neighbour in time."""
    systems: dict[str, dict[str, Any]] = {}
    for name, (first, *timed) in rounds.items():
        counts = {entry["step"]: entry["num_tokens"] for entry in first["log"]}
        num_tokens = counts[max(counts)] - counts[warmup]
        walls, cpus, steps = [], [], []
        for measured in timed:
            wall, cpu = zip(*measured["times"], strict=True)
            walls.append(num_tokens / (wall[-1] - wall[warmup]))
            cpus.append(num_tokens / (cpu[-1] - cpu[warmup]))
            ends = wall[warmup:-1]
            steps.append(statistics.median(b - a for a, b in zip(ends, ends[1:], strict=False)))
        systems[name] = {
            "num_tokens": num_tokens,
            "tokens_per_second": walls,
            "tokens_per_cpu_second": cpus,
            "step_s": steps,
            "peak_bytes": [measured["peak_bytes"] for measured in timed],
            "peak_bytes_before": [measured["peak_bytes_before"] for measured in timed],
            "startup_s": [measured["startup_s"] for measured in timed],
            "finish_s": [measured["finish_s"] for measured in timed],
            "first_losses": [entry["loss"] for entry in first["log"]],
        }
    for name, own in systems.items():
        other = systems[BARE if name == OURS else OURS]
        for key in ("tokens_per_second", "tokens_per_cpu_second", "step_s", "peak_bytes"):
            own[f"{key}_ratio"] = [a / b for a, b in zip(own[key], other[key], strict=True)]
    return systems


def print_table(report: dict[str, Any]) -> None:
    settings, systems = report["settings"], report["systems"]
    steps = settings["steps"] - settings["warmup"]
    print(
        f"\n{where(report)}; {settings['recipe']}, {steps} steps of "
        f"{systems[OURS]['num_tokens'] / steps:,.0f} tokens, medians of {settings['repeats']} "
        f"rounds; losses of the first {settings['steps']} steps equal\n"
    )
    print(f"{'':14}{'tokens/s':>10}{'step ms':>9}{'peak MiB':>10}{'start s':>9}{'end s':>7}", end="")
    print(f"{'tokens/s over':>15} {'':10}{'tokens/CPU-s over':>19}{'memory over':>13}")
    for name, own in systems.items():
        median = {key: statistics.median(v) for key, v in own.items() if isinstance(v, list)}
        line = f"{name:14}{median['tokens_per_second']:10,.0f}{median['step_s'] * 1e3:9.1f}"
        line += f"{median['peak_bytes'] / 2**20:10,.0f}{median['startup_s']:9.1f}"
        line += f"{median['finish_s']:7.1f}"
        if name != BARE:
            line += f"{spread(own['tokens_per_second_ratio'])}   "
            line += f"{spread(own['tokens_per_cpu_second_ratio'])}"
            line += f"{median['peak_bytes_ratio']:7.2f}  {BARE if name == OURS else OURS}"
        print(line)


def spread(ratios: list[float]) -> str:
    """The median of some ratios and their range."""
    return f"{statistics.median(ratios):7.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"


if __name__ == "__main__":
    main()
