"""Results under the keys and columns a W&B dashboard shows them by.

Keys: `eval/<task>/<system>`, and for each proxy `eval/<task>/<measure>/<base slug>/alpha<a>` with
the measures gain_over_base, gain_over_expert and gap_closed; fractions, as in `metrics.json`. A
positive gain is an improvement, also where a low value is the good one. The mean over several tasks
is `eval/mean_gap_closed/<base slug>/alpha<a>`. What decoding took is under `decode/<system>/`, on a
further task under `decode/<task>/<system>/`.

As curves, `over_alpha/<task>/<base slug>/<measure>` against `over_alpha/alpha`, where alpha 0 is
the base. `eval/<task>/best_value/<base slug>` is the best proxy's value, under `best_alpha` is its
alpha: what a sweep looks for, on validation rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.gap_closed import GapClosed
from ..evaluation.intervals import Estimate
from ..evaluation.metrics import MeasuredProxy, Metrics
from ..evaluation.systems import steering_name


def result_values(metrics: Metrics) -> dict[str, float]:
    """W&B keys and values of a run's results; intervals under `<key>_low` and `<key>_high`."""
    values = _task_values(metrics, "decode")
    for further in metrics.also:
        values |= _task_values(further, f"decode/{further.task}")
    for mean in metrics.mean_gap_closed:
        if mean.value is not None:
            how = "chosen" if mean.alpha is None else steering_name(mean.alpha, mean.rule)
            values[f"eval/mean_gap_closed/{mean.slug}/{how}"] = mean.value
    return values


def _task_values(metrics: Metrics, decode: str) -> dict[str, float]:
    prefix = f"eval/{metrics.task}"
    values: dict[str, float] = {}

    def add(key: str, value: float, interval: tuple[float, float] | None) -> None:
        values[f"{prefix}/{key}"] = value
        if interval is not None:
            values[f"{prefix}/{key}_low"], values[f"{prefix}/{key}_high"] = interval

    for system in metrics.systems:
        add(system.name, system.value, (system.low, system.high))
        if (proxy := system.proxy) is not None:
            how = steering_name(proxy.alpha, proxy.rule)
            for name, found in _measures(proxy).items():
                add(f"{name}/{system.slug}/{how}", found.value, found.ci95)
    for base in metrics.bases:
        if base.proxy:
            best = base.best(metrics.metric)
            values[f"{prefix}/best_value/{base.slug}"] = best.value
            values[f"{prefix}/best_alpha/{base.slug}"] = best.alpha
        if base.choice is not None:
            chosen = base.headline
            add(f"chosen/{base.slug}", chosen.value, chosen.ci95)
            for name, found in _measures(chosen).items():
                add(f"{name}/{base.slug}/chosen", found.value, found.ci95)
    for name, parts in metrics.parts.items():
        values |= {f"{prefix}/{name}/{part}": value for part, value in parts.items()}
    if metrics.uncounted is not None:
        values[f"{prefix}/num_uncounted"] = metrics.uncounted.num_questions
    for name, decoding in metrics.decoding.items():
        visible = () if decoding.endpoint is None else decoding.endpoint
        for key, value in (*decoding, *visible):
            if isinstance(value, int | float):
                values[f"{decode}/{name}/{key}"] = value
        for count, times in enumerate(decoding.accepted_drafts):
            values[f"{decode}/{name}/accepted_drafts/{count}"] = times
        for stage, seconds in decoding.seconds.items():
            values[f"{decode}/{name}/seconds/{stage}"] = seconds
    return values


def alpha_rows(metrics: Metrics) -> list[dict[str, float]]:
    """W&B rows, one an alpha, that draw every base's results over alpha."""
    by_alpha: dict[float, dict[str, float]] = {}
    for own in metrics.tasks:
        for base in own.bases:
            prefix = f"over_alpha/{own.task}/{base.slug}"
            # With alpha 0 the proxy is the base, and the base closes nothing of its gap.
            start = {f"{prefix}/value": base.base.value, f"{prefix}/gain_over_base": 0.0}
            if any(proxy.gap_closed for proxy in base.over_alpha):
                start[f"{prefix}/gap_closed"] = 0.0
            by_alpha.setdefault(0.0, {}).update(start)
            for proxy in base.over_alpha:
                row = by_alpha.setdefault(proxy.alpha, {})
                row[f"{prefix}/value"] = proxy.value
                for name, found in _measures(proxy).items():
                    row[f"{prefix}/{name}"] = found.value
    return [{"over_alpha/alpha": alpha, **by_alpha[alpha]} for alpha in sorted(by_alpha)]


def _measures(proxy: MeasuredProxy) -> Mapping[str, Estimate | GapClosed]:
    """A proxy's gains and gap closed by their W&B names, as far as it has them."""
    found = {"gain_over_base": proxy.gain_over_base, "gain_over_expert": proxy.gain_over_expert}
    return found if proxy.gap_closed is None else {**found, "gap_closed": proxy.gap_closed}


def summary_of(key: str) -> str | None:
    """How W&B summarises a training curve; None is the last value alone."""
    if not key.startswith(("train/", "reference/", "proxy_check/")):
        return None
    name = key.rpartition("/")[2]
    if name.endswith("loss"):
        return "min,last"
    if name.endswith("accuracy") or name.startswith(("gain", "gap_closed")):
        return "max,last"
    return None


def predictions_table(
    predictions: Mapping[str, Sequence[dict[str, Any]]],
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: id, prompt, answers, then each system's prediction and score.

    Raises:
        ValueError: the systems did not answer the same rows in the same order.
    """
    columns: list[str] = ["id", "prompt", "answers"]
    for system in predictions:
        columns += [system, f"{system} score"]
    ids = {system: [row["id"] for row in rows] for system, rows in predictions.items()}
    first = next(iter(ids), None)
    for system, own in ids.items():
        if first is not None and own != ids[first]:
            raise ValueError(
                f"predictions of '{system}' ({len(own)} rows) and '{first}' ({len(ids[first])} "
                "rows) are not the same rows in the same order; decode them again"
            )
    rows: list[list[Any]] = []
    for answers in zip(*predictions.values(), strict=True):
        row = [answers[0]["id"], answers[0]["prompt"], " | ".join(answers[0]["answers"])]
        for answer in answers:
            # a judged row has no prediction
            read_off = "prediction" if "prediction" in answer else "completion"
            row += [answer[read_off], answer["score"]]
        rows.append(row)
    return columns, rows
