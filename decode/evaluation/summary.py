"""The metrics of one experiment's predictions: each system's value, gains and gap closed.

Where a low value is the good one (a share of toxic completions), gains and gap closed are taken on
one minus it: a positive gain is an improvement whatever the metric. A question that has no score in
some system counts in none. The statistics are in intervals.py, gap_closed.py and mcnemar.py.

Shape letters: S systems, N rows, R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from ..backends.next_tokens import EndpointSource
from ..jobs.folder import RunFolder
from .choice_file import read_choices
from .experiment import Experiment
from .gap_closed import gap_closed_of, mean_gap_closed
from .intervals import SEED, Estimate, Scores, difference_of, mean_of, resampled_means, stacked
from .lineup import Lineup, System
from .mcnemar import mcnemar
from .metric import Metric
from .metrics import (
    Choice,
    MeanOverTasks,
    MeasuredBase,
    MeasuredProxy,
    Metrics,
    Pair,
    Thoughts,
    Uncounted,
)
from .metrics_file import read_decoding
from .systems import check_slugs, system_name

Rows = Sequence[dict[str, Any]]
Steering = tuple[float, str]  # alpha and the name of a rule
QuestionValues = list[float | None]  # in the questions' order


class NothingCountsError(ValueError):
    """The judges left every question open in some system."""


@dataclass(frozen=True, slots=True)
class BaseScores:
    """One base's scores on the task's rows, in row order; `tuned` is None without a reference."""

    model: str
    slug: str
    base: Scores
    tuned: Scores | None
    proxy: Mapping[Steering, Scores]
    choice: Choice | None = None


def measure(experiment: Experiment, predictions: Mapping[str, Rows], folder: RunFolder) -> Metrics:
    """The metrics of one task, from the rows of each system.

    `decoding` is what each system's decoding took, as far as it ran without being killed.

    Raises:
        NothingCountsError: no question has a score in every system.
    """
    values = {name: question_values(experiment, rows) for name, rows in predictions.items()}
    places = counted_places(experiment.task, values)

    def scores(system: System) -> list[float]:
        found = [values[system.name][place] for place in places]
        return [value for value in found if value is not None]

    choices = read_choices(folder.choice) if experiment.lineup.chosen else {}
    bases = [
        BaseScores(
            contender.base.name,
            contender.slug,
            scores(System("base", contender)),
            None if contender.tuned is None else scores(System("tuned", contender)),
            {
                (alpha.value, alpha.rule.name): scores(System("proxy", contender, alpha))
                for alpha in experiment.lineup.alphas_of(contender)
            },
            choices.get(contender.slug),
        )
        for contender in experiment.lineup.contenders
    ]
    small = scores(System("antiexpert")), scores(System("expert"))
    count = experiment.num_samples
    counted = [count * place + sample for place in places for sample in range(count)]
    parts = {name: part_means([rows[i] for i in counted]) for name, rows in predictions.items()}
    thoughts = {name: own for name, rows in predictions.items() if (own := thoughts_of(rows))}
    found = {
        "decoding": {
            name: read_decoding(
                folder.decoding(name),
                folder.seals(folder.decoding(name), folder.predictions(name), key="decoding"),
            )
            for name in predictions
            if folder.decoding(name).exists()
        },
        "uncounted": Uncounted(
            num_questions=len(experiment.questions) - len(places),
            by_system={name: own.count(None) for name, own in values.items()},
        ),
        **({"parts": parts} if any(parts.values()) else {}),
        **({"thinking": thoughts} if thoughts else {}),
    }
    metrics = summarize(experiment.task, experiment.metric, *small, bases).model_copy(update=found)
    return metrics.model_copy(update={"bases": _with_endpoints(metrics.bases, experiment.lineup)})


def _with_endpoints(bases: Sequence[MeasuredBase], lineup: Lineup) -> tuple[MeasuredBase, ...]:
    sources = [contender.base for contender in lineup.contenders]
    return tuple(
        base.model_copy(update={"endpoint": source.url, "top_logprobs": source.top_logprobs})
        if isinstance(source, EndpointSource)
        else base
        for base, source in zip(bases, sources, strict=True)
    )


def question_values(experiment: Experiment, rows: Rows) -> QuestionValues:
    """What each question is worth, from the scores of its rows; None if one of them is open."""
    count = experiment.num_samples
    values: QuestionValues = []
    for start in range(0, len(rows), count):
        scores = [row["score"] for row in rows[start : start + count]]
        values.append(None if None in scores else experiment.combine(scores))
    return values


def counted_places(task: str, values: Mapping[str, QuestionValues]) -> list[int]:
    """The places of the questions that have a score in every system.

    Raises:
        NothingCountsError: there are none.
    """
    places = [
        place
        for place, scores in enumerate(zip(*values.values(), strict=True))
        if all(score is not None for score in scores)
    ]
    if not places:
        raise NothingCountsError(
            f"{task}: no question has a score in every system, so there is nothing to "
            "compare; the run's judgements/ has what the judges said"
        )
    return places


def part_means(rows: Rows) -> dict[str, float]:
    """The mean of each part of the grades; rows whose part is open do not count."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.get("parts", {}).items():
            if value is not None:
                found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


def thoughts_of(rows: Rows) -> Thoughts | None:
    """How a system thought, over all of its rows; None if no row did."""
    ends = [row["thinking_end"] for row in rows if "thinking_end" in row]
    if not ends:
        return None
    num_tokens = sum(row.get("num_thinking_tokens", 0) for row in rows)
    counts = ends.count("budget"), ends.count("never")
    return Thoughts(
        num_rows=len(ends),
        mean_tokens=num_tokens / len(ends),
        num_cut=counts[0],
        num_unended=counts[1],
    )


def summarize(
    task: str,
    metric: Metric,
    antiexpert: Scores,
    expert: Scores,
    bases: Sequence[BaseScores],
    seed: int = SEED,
) -> Metrics:
    """The metrics of every system with its interval, gains, gap closed, and every pair of systems.

    Args:
        task: its name, copied.
        metric: what the scores are.
        antiexpert, expert: scores in row order.
        bases: likewise for each base; of each rule the alphas appear in ascending order.
        seed: of the resampling.

    Raises:
        ValueError: the lengths differ, there are no scores, one is not finite, or two bases have
            the same slug.
    """
    check_slugs(base.slug for base in bases)
    scores: dict[str, Scores] = {"antiexpert": antiexpert, "expert": expert}
    for base in bases:
        scores[system_name("base", base.slug)] = base.base
        for steering in base.proxy:
            scores[system_name("proxy", base.slug, *steering)] = base.proxy[steering]
        if base.tuned is not None:
            scores[system_name("tuned", base.slug)] = base.tuned
    rows = stacked(scores)  # (S, N)
    means = resampled_means(rows, seed)  # (S, R)
    worth, worth_means = metric.worth(rows), metric.worth(means)
    index = {name: number for number, name in enumerate(scores)}

    def mean(name: str) -> Estimate:
        return mean_of(rows[index[name]], means[index[name]])

    def gain(name: str, other: str) -> Estimate:
        both = [index[name], index[other]]
        return difference_of(worth[both], worth_means[both])

    def proxy(base: BaseScores, steering: Steering) -> MeasuredProxy:
        name, over = system_name("proxy", base.slug, *steering), system_name("base", base.slug)
        closed, reason = None, "no directly tuned reference to compare with"
        if base.tuned is not None:
            trio = [index[over], index[name], index[system_name("tuned", base.slug)]]
            closed, reason = gap_closed_of(worth[trio], worth_means[trio], metric)
        own = mean(name)
        return MeasuredProxy(
            alpha=float(steering[0]),
            **({"rule": steering[1]} if steering[1] else {}),
            value=own.value,
            ci95=own.ci95,
            gain_over_base=gain(name, over),
            gain_over_expert=gain(name, "expert"),
            gap_closed=closed,
            gap_closed_reason=reason,
        )

    def pair(a: str, b: str) -> Pair:
        counts = mcnemar(worth[index[a]], worth[index[b]])
        return Pair(a=a, b=b, difference=gain(a, b), mcnemar=counts)

    return Metrics(
        task=task,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        pass_at=metric.pass_at,
        num_examples=rows.shape[1],
        antiexpert=mean("antiexpert"),
        expert=mean("expert"),
        bases=tuple(
            MeasuredBase(
                model=base.model,
                slug=base.slug,
                base=mean(system_name("base", base.slug)),
                tuned=None if base.tuned is None else mean(system_name("tuned", base.slug)),
                proxy=tuple(proxy(base, steering) for steering in _in_order(base.proxy)),
                **_chosen(base),
            )
            for base in bases
        ),
        pairs=tuple(pair(other, one) for one, other in combinations(scores, 2)),
    )


def _chosen(base: BaseScores) -> dict[str, Any]:
    return {} if base.choice is None else {"choice": base.choice}


def _in_order(steerings: Iterable[Steering]) -> list[Steering]:
    """Rules in the order they came, alphas ascending."""
    rules = list(dict.fromkeys(rule for _, rule in steerings))
    return sorted(steerings, key=lambda steering: (rules.index(steering[1]), steering[0]))


def with_further_tasks(measured: Sequence[Metrics], folders: Sequence[str]) -> Metrics:
    """The first task's metrics; where there are more, those too, and the mean gap closed.

    Args:
        measured: of the same systems, the task that is learnt first in front.
        folders: of the further tasks, in the run's folder.
    """
    first, *further = measured
    if not further:
        return first
    also = tuple(
        own.model_copy(update={"folder": folder})
        for own, folder in zip(further, folders, strict=True)
    )
    means: list[MeanOverTasks] = []

    def add(base: MeasuredBase, proxies: Sequence[MeasuredProxy], **steering: Any) -> None:
        gaps = {
            own.task: None if proxy.gap_closed is None else proxy.gap_closed.value
            for own, proxy in zip(measured, proxies, strict=True)
        }
        about = {"model": base.model, "slug": base.slug, "gaps": gaps, **steering}
        means.append(MeanOverTasks(**about, **asdict(mean_gap_closed(gaps))))

    for number, base in enumerate(first.bases):
        same = [own.bases[number] for own in measured]  # the base on every task
        by_task = [{(proxy.alpha, proxy.rule): proxy for proxy in own.proxy} for own in same]
        for alpha, rule in by_task[0]:
            if all((alpha, rule) in own for own in by_task):
                named = {"rule": rule} if rule else {}
                add(base, [own[alpha, rule] for own in by_task], alpha=alpha, **named)
        if all(own.choice is not None for own in same):
            add(base, [own.headline for own in same], alpha=None)
    return first.model_copy(update={"also": also, "mean_gap_closed": tuple(means)})
