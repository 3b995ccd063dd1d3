"""What an expert moved, token by token: a finished run in, pages, figures and pictures out.

    python decode/analyze.py recipes/gsm7b.yaml [section.key=value ...]

Base, expert and anti-expert read the proxy's own completions again, those of each base at one alpha
(`analyze.alpha`), the first `analyze.num_rows` of them. Everything goes to the run's `analysis/`
folder, that of a further task to the one in its own folder; tasks of lm-eval have none. What was
read once is not read again.
"""

import sys
from dataclasses import replace
from typing import Any

from decode.analysis.analysis_folder import dashboard_numbers, write_analysis, write_proxy
from decode.analysis.analysis_report import closing_lines
from decode.analysis.completions import read_completions
from decode.analysis.shift_summary import summarize_shifts, token_table
from decode.analysis.token_rows import token_rows
from decode.analysis.trade_off import trade_offs
from decode.evaluation.experiment import Experiment, check
from decode.evaluation.lineup import System
from decode.evaluation.loaded import Completers
from decode.evaluation.settings import check_models
from decode.jobs.disk import check_writable
from decode.jobs.faults import doing
from decode.jobs.interruption import interruptible
from decode.stage.command import entry, recipe_from_command_line, start_logging, user_errors
from decode.stage.planning import plan
from decode.stage.stage import track
from decode.stage.validation import choices_there
from recipes.schema.recipe import Recipe


@entry()
def main() -> None:
    """Recipe, predictions, models, run, save and report."""
    recipe = recipe_from_command_line(__doc__)
    start_logging()

    with user_errors(ValueError):  # before any weights load
        planned = [(own, folder) for own, folder in plan(recipe) if not own.harness]
        tasks = choices_there(planned)
        tasks[0][0].lineup.check_tokens("the analysis is of single tokens")
        if not any(one.is_loaded for one in tasks[0][0].lineup.contenders):
            raise ValueError(
                "decode.bases: all of them are behind endpoints, which show no more than their "
                "likeliest tokens; the analysis needs a base that is loaded"
            )
        for experiment, folder in tasks:
            check(experiment)
            for system in _proxies(experiment, recipe):
                read_completions(experiment, system, folder)
                check_models(experiment.lineup, system, folder)
            check_writable("output_dir", folder.analysis / "analysis.md")
        curves = [trade_offs(folder, recipe.analyze.trade_off) for _, folder in tasks]

    tracker = track(recipe, "analyze")
    # Whatever engine wrote the completions: only models in memory say what each role says.
    completers = Completers(replace(tasks[0][0].lineup, engine="local"))
    summaries: list[dict[str, Any]] = [{} for _ in tasks]
    proxies = [_proxies(experiment, recipe) for experiment, _ in tasks]
    for of_base in zip(*proxies, strict=True):  # a base is loaded once for all tasks
        for (experiment, folder), own, system in zip(tasks, summaries, of_base, strict=True):
            with user_errors(ValueError), doing(f"reading {experiment.task}, {system.name} again"):
                completions = read_completions(experiment, system, folder)
                num_rows = recipe.analyze.num_rows or len(completions)
                rows = token_rows(completers, experiment, system, completions, num_rows, folder)
                summary = own[system.name] = summarize_shifts(rows)
            key = f"analysis/{experiment.task}/{system.name}"
            title = f"{recipe.name}, {experiment.task}: {system.name}"
            pictures = write_proxy(title, rows, summary, folder.tokens(system.name).parent)
            tracker.images({f"{key}/{name}": path for name, path in pictures.items()})
            tracker.table(f"{key}/tokens", *token_table(rows))
            values = {f"{key}/{name}": n for name, n in dashboard_numbers(summary).items()}
            tracker.log(values)
            tracker.summary(values)
    for (experiment, folder), own, found in zip(tasks, summaries, curves, strict=True):
        analysis, pictures = write_analysis(recipe.name, experiment, folder, own, found)
        key = f"analysis/{experiment.task}"
        tracker.images({f"{key}/{name}": path for name, path in pictures.items()})
        print(f"{closing_lines(analysis)}\n\nanalysis: {folder.analysis / 'analysis.md'}")
    tracker.finish()


def _proxies(experiment: Experiment, recipe: Recipe) -> list[System]:
    """The proxy of each loaded base: at `analyze.alpha` by the run's rule, or the headline's."""
    lineup, wanted = experiment.lineup, recipe.analyze.alpha
    return [
        System(
            "proxy",
            contender,
            lineup.headline(contender)
            if wanted is None
            else next(alpha for alpha in lineup.alphas if alpha.value == wanted),
        )
        for contender in lineup.contenders
        if contender.is_loaded
    ]


if __name__ == "__main__":
    if code := interruptible(main):
        sys.exit(code)
