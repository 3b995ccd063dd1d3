"""Which alpha and rule: all of them on validation and on evaluation rows of finished runs.

    python benchmarks/rules.py ROWS recipes/mini/gsm.yaml [key=value ...] --seeds 0 1 2 \\
        --runs runs/gsm --out runs/rules-gsm

The runs (`--runs` with `-SEED` appended) must be trained; ROWS are validation rows. Every rule at
every alpha completes both. For each seed the tables say

- what each scores on evaluation rows, and its paired difference to the formula at the same alpha;
- what the validation rows choose, by all of them and by successive halving, and what that scores;
- how often the choice on a resample of the validation rows is as good as the best on the others;
- the alpha at which the training rows' own completions are likeliest: a choice without rows.

Rows that are decoded are kept in --out and never decoded again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data import TASKS
from data.rows import read_rows
from decode.backends.completer import Continuation
from decode.engine.rule import PAPER, Alpha, Rule
from decode.evaluation.choosing import Values, rungs, survivors
from decode.evaluation.experiment import Experiment
from decode.evaluation.intervals import difference_with_interval, mean_with_interval
from decode.evaluation.lineup import System
from decode.evaluation.loaded import Completers
from decode.evaluation.predict import run_all
from decode.evaluation.summary import question_values
from decode.jobs.files import write_json
from decode.jobs.folder import RunFolder
from decode.reports.figure import COLOURS, FAINT, INK, in_percent, new_axes, save
from decode.stage.command import start_logging
from decode.stage.planning import plan
from recipes.schema.recipe import Recipe, load_recipe

ALPHAS = (0.5, 0.75, 1.0, 1.5)
RULES = (
    PAPER,
    Rule("base_or_expert", 0.02),
    Rule("base_or_expert", 0.1),
    Rule("expert", 0.01),
    Rule("expert", 0.1),
    Rule(sure_base=0.9),
    Rule(by_doubt=True),
    Rule(warmup_tokens=8),
    Rule(half_life_tokens=32),
    Rule(antiexpert=False),
)
NUM_RESAMPLES = 20
NUM_TRAINING_ROWS = 64

Scores = dict[Alpha, list[float]]


def main() -> None:
    """Decode, choose, and print what was found; `--out` has it as rules.json."""
    arguments = _arguments()
    start_logging()
    found = []
    for seed in arguments.seeds:
        at_seed = [f"seed={seed}", f"output_dir={arguments.runs}-{seed}"]
        recipe = load_recipe(arguments.recipe, [*arguments.overrides, *at_seed])
        found.append(measure(recipe, arguments.rows, arguments.out / f"seed{seed}", seed))
        write_json(arguments.out / "rules.json", {"seeds": found})
    plot(found, arguments.out / "rules.png")
    print(report(found))


def measure(recipe: Recipe, rows: str, out: Path, seed: int) -> dict[str, Any]:
    """One run's numbers, all fractions."""
    ((experiment, _), *_) = plan(recipe)
    task = TASKS[recipe.task.name]
    candidates = [Alpha(alpha, rule) for rule in RULES for alpha in ALPHAS]
    validation = scores(replace(experiment, questions=task.eval_rows(rows)), candidates, out / "v")
    test = scores(experiment, candidates, out / "t")
    best = max(candidates, key=lambda alpha: np.mean(test[alpha]))
    by_loss = likeliest_alpha(recipe, experiment)
    chosen = {
        "all rows": max(candidates, key=lambda alpha: np.mean(validation[alpha])),
        "halving": halved(validation, experiment),
        "formula, all rows": max(
            (alpha for alpha in candidates if alpha.rule == PAPER),
            key=lambda alpha: np.mean(validation[alpha]),
        ),
        "formula, training loss": by_loss,
        "formula, alpha 1": Alpha(1.0),
        "best on these very rows": best,
    }
    return {
        "seed": seed,
        "candidates": [
            {
                "alpha": alpha.value,
                "rule": alpha.rule.name,
                "validation": float(np.mean(validation[alpha])),
                "test": asdict(mean_with_interval(test[alpha])),
                "over_formula": asdict(
                    difference_with_interval(test[alpha], test[Alpha(alpha.value)])
                ),
            }
            for alpha in candidates
        ],
        "chosen": {
            way: {
                "alpha": alpha.value,
                "rule": alpha.rule.name,
                "test": asdict(mean_with_interval(test[alpha])),
                "over_alpha_1": asdict(difference_with_interval(test[alpha], test[Alpha(1.0)])),
            }
            for way, alpha in chosen.items()
        },
        "resamples": resampled_choices(validation, test, experiment, best, seed),
    }


def scores(experiment: Experiment, candidates: Sequence[Alpha], out: Path) -> Scores:
    """Every candidate's scores on the experiment's questions, for its first base."""
    contender = experiment.lineup.contenders[0]
    lineup = replace(
        experiment.lineup, contenders=(contender,), alphas=tuple(candidates), is_choosing=True
    )
    own = replace(experiment, lineup=lineup, choosing=None)
    (predictions,) = run_all([(own, RunFolder(out))])
    found: Scores = {}
    for alpha in candidates:
        values = question_values(own, predictions[System("proxy", contender, alpha).name])
        found[alpha] = [value for value in values if value is not None]
    return found


def halved(validation: Scores, experiment: Experiment) -> Alpha:
    """What successive halving chooses, as a run does it."""
    left = list(validation)
    for rows in rungs(len(validation[left[0]])):
        completed: Values = {a: [*validation[a][: rows.stop]] for a in validation if a in left}
        left = survivors(completed, experiment.metric, experiment.task)
    return left[0]


def resampled_choices(
    validation: Scores, test: Scores, experiment: Experiment, best: Alpha, seed: int
) -> dict[str, int]:
    """How many choices on resampled validation rows are not measurably worse than the best."""
    generator = np.random.default_rng(seed)
    num_rows = len(validation[best])
    num_good = num_same = 0
    for _ in range(NUM_RESAMPLES):
        drawn = generator.integers(0, num_rows, num_rows)
        resampled = {alpha: [own[row] for row in drawn] for alpha, own in validation.items()}
        chosen = halved(resampled, experiment)
        loss = difference_with_interval(test[best], test[chosen])
        num_good += loss.ci95[0] <= 0
        num_same += chosen.rule == best.rule
    return {"num": NUM_RESAMPLES, "within_noise_of_best": num_good, "same_rule": num_same}


def likeliest_alpha(recipe: Recipe, experiment: Experiment) -> Alpha:
    """The alpha of the formula under which the first training rows' completions are likeliest."""
    task = TASKS[recipe.task.name]
    rows = read_rows(task.training_source(recipe.task.train), NUM_TRAINING_ROWS)
    pairs = [task.to_train(row) for row in rows]
    contender = experiment.lineup.contenders[0]
    completer = Completers(experiment.lineup).of(System("proxy", contender, Alpha(1.0)))
    encode = completer.tokenizers.base
    given = [
        Continuation(
            f"{alpha:g} {number}",
            experiment.lineup.prompt(System("proxy", contender), pair.prompt),
            encode(pair.completion, add_special_tokens=False)["input_ids"],
            Alpha(alpha),
        )
        for alpha in ALPHAS
        for number, pair in enumerate(pairs)
    ]
    total = dict.fromkeys(ALPHAS, 0.0)
    for scored in completer.score(given):
        total[float(str(scored.name).split()[0])] += sum(scored.logprobs)
    return Alpha(max(total, key=lambda alpha: total[alpha]))


def report(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a table of all rules by alpha (means over seeds), and what was chosen."""
    rules = list(dict.fromkeys(one["rule"] for one in found[0]["candidates"]))
    lines = [f"| rule | {' | '.join(f'{alpha:g}' for alpha in ALPHAS)} |", "|---" * 5 + "|"]
    for rule in rules:
        cells = [rule or "formula"]
        for alpha in ALPHAS:
            own = [
                one
                for seed in found
                for one in seed["candidates"]
                if (one["alpha"], one["rule"]) == (alpha, rule)
            ]
            mean = 100 * np.mean([one["test"]["value"] for one in own])
            sides = [np.sign(one["over_formula"]["ci95"]).sum() / 2 for one in own]
            up, down = sides.count(1), sides.count(-1)
            marks = f" ({up} up, {down} down)" if up or down else ""
            cells.append(f"{mean:.1f}{marks}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| chosen by | seed: alpha, rule, percent [95%], over the formula at 1 |",
        "|---|---|",
    ]
    for way in found[0]["chosen"]:
        cells = [f"{seed['seed']}: {_chosen(seed['chosen'][way])}" for seed in found]
        lines.append(f"| {way} | {'; '.join(cells)} |")
    for seed in found:
        lines.append(f"\nseed {seed['seed']}, resampled choices: {json.dumps(seed['resamples'])}")
    return "\n".join(lines)


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws every rule's mean over seeds on evaluation rows against alpha into `path`."""
    axes, figure = new_axes(4.2)
    ends = {}
    for rule in dict.fromkeys(one["rule"] for one in found[0]["candidates"]):
        means = [
            np.mean(
                [
                    one["test"]["value"]
                    for seed in found
                    for one in seed["candidates"]
                    if (one["alpha"], one["rule"]) == (alpha, rule)
                ]
            )
            for alpha in ALPHAS
        ]
        colour = COLOURS["proxy"] if not rule else COLOURS["expert"] if "er" in rule else INK
        width = 3 if not rule else 1.5
        axes.plot(ALPHAS, means, color=colour, linewidth=width, marker="o", markersize=4)
        ends[rule or "formula"] = float(means[-1]), colour
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    place = -1.0
    for name, (value, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        place = max(value, place + 0.045 * (high - low))
        axes.annotate(
            name, (ALPHAS[-1], place), xytext=(8, 0), textcoords="offset points", va="center",
            fontsize=9, color=colour, annotation_clip=False,
        )  # fmt: skip
    axes.set_xticks(ALPHAS)
    axes.set_xlabel(f"alpha (means of {len(found)} seeds)")
    axes.set_ylabel("evaluation rows, percent")
    in_percent(axes.yaxis)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    save(figure, path)


def _chosen(one: dict[str, Any]) -> str:
    test, over = one["test"], one["over_alpha_1"]
    low, high = (100 * bound for bound in test["ci95"])
    gain, (down, up) = 100 * over["value"], (100 * bound for bound in over["ci95"])
    return (
        f"{one['alpha']:g} {one['rule'] or 'formula'} {100 * test['value']:.1f} [{low:.1f}, "
        f"{high:.1f}] {gain:+.1f} [{down:+.1f}, {up:+.1f}]"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("rows")
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", required=True, help="output_dir without -SEED")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
