"""How a base is steered, chosen on validation rows: successive halving over alphas and rules.

All candidates complete a quarter of the rows; the better half, and of those none that is clearly
behind, complete up to a half of them, and at least two all of them. The best mean is chosen; of
equals the one that is listed first. What the run reports is measured on other rows.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean

from ..engine.rule import Alpha
from ..jobs.folder import RunFolder
from .choice_file import write_choices
from .experiment import Experiment
from .intervals import FEWEST, Estimate, difference_of, resampled_means, stacked
from .lineup import Contender, System
from .metric import Metric
from .metrics import Choice, Tried
from .predict import run_all
from .summary import QuestionValues, counted_places, question_values

RUNGS = (0.25, 0.5, 1.0)  # shares of the rows that candidates have completed after each
NUM_FINALISTS = 2

Values = dict[Alpha, QuestionValues]


def choose_all(experiment: Experiment, folder: RunFolder) -> dict[str, Choice]:
    """What an experiment's validation rows choose for each of its bases, kept in `choice.json`.

    Finished rows are read from the folder and never decoded again.

    Raises:
        SettingsChanged: the folder holds rows that were decoded with other settings.
        NothingCountsError: no validation row has a score under every candidate.
    """
    contenders = experiment.lineup.contenders
    choices = {one.slug: _choose(experiment, folder, one) for one in contenders}
    write_choices(folder.choice, choices)
    folder.keep(folder.choice)
    return choices


def rungs(num_rows: int) -> list[slice]:
    """Which rows candidates complete at each rung; none is empty."""
    ends = sorted({max(1, round(share * num_rows)) for share in RUNGS})
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def survivors(values: Values, metric: Metric, task: str) -> list[Alpha]:
    """The candidates that go on: the better half, less those clearly behind the best.

    Args:
        values: of the candidates, in the order they are listed, on the same rows.
    """
    ranked = _ranked(values, metric, task)
    best, *others = ranked[: max(NUM_FINALISTS, (len(ranked) + 1) // 2)]
    if len(values[best]) < FEWEST:  # too few to fall clearly behind on
        return [best, *others]
    behind = {alpha: _behind(values, best, alpha, metric, task) for alpha in others}
    return [best, *(alpha for alpha in others if behind[alpha].ci95[0] <= 0)]


def _choose(experiment: Experiment, folder: RunFolder, contender: Contender) -> Choice:
    choosing, metric = experiment.choosing, experiment.metric
    assert choosing is not None, "the recipe has a choice to make"
    left = list(choosing.candidates)
    values: Values = {alpha: [] for alpha in left}
    for number, rows in enumerate(rungs(len(choosing.questions)), start=1):
        own = replace(
            experiment,
            questions=choosing.questions[rows],
            choosing=None,
            lineup=replace(
                experiment.lineup,
                contenders=(contender,),
                alphas=tuple(left),
                chosen={},
                is_choosing=True,
            ),
        )
        (predictions,) = run_all([(own, folder.rung(contender.slug, number))])
        for alpha in left:
            name = System("proxy", contender, alpha).name
            values[alpha] += question_values(own, predictions[name])
        listed = {alpha: values[alpha] for alpha in choosing.candidates if alpha in left}
        left = survivors(listed, metric, experiment.task)
        if len(left) == 1:
            break
    chosen = left[0]

    def tried(alpha: Alpha) -> Tried:
        counted = [value for value in values[alpha] if value is not None]
        return Tried(
            alpha=alpha.value,
            rule=alpha.rule.name,
            num_rows=len(values[alpha]),
            value=sum(counted) / max(1, len(counted)),
            behind=None
            if alpha == chosen
            else _behind(values, chosen, alpha, metric, experiment.task),
        )

    return Choice(
        alpha=chosen.value,
        rule=chosen.rule.name,
        settings=asdict(chosen.rule),
        rows=choosing.rows,
        num_rows=len(choosing.questions),
        tried=tuple(tried(alpha) for alpha in choosing.candidates),
    )


def _ranked(values: Values, metric: Metric, task: str) -> list[Alpha]:
    """Candidates, best first; of equals the first stays first."""
    places = counted_places(task, {str(number): own for number, own in enumerate(values.values())})
    means = {
        alpha: fmean(metric.worth(_at(own, place)) for place in places)  # equals are equal
        for alpha, own in values.items()
    }
    return sorted(values, key=lambda alpha: -means[alpha])


def _behind(values: Values, best: Alpha, other: Alpha, metric: Metric, task: str) -> Estimate:
    """How far one is behind the other, on the rows that both have completed."""
    num_rows = min(len(values[best]), len(values[other]))
    pair = {"a": values[best][:num_rows], "b": values[other][:num_rows]}
    places = counted_places(task, pair)
    rows = stacked({name: [_at(own, place) for place in places] for name, own in pair.items()})
    return difference_of(metric.worth(rows), metric.worth(resampled_means(rows)))


def _at(values: Sequence[float | None], place: int) -> float:
    value = values[place]
    assert value is not None, "only rows that count"
    return value
