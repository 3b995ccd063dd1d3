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

from ..evaluation.systems import best, measured_systems, slug

MEASURES = ("gain_over_base", "gain_over_expert", "gap_closed")


def result_values(metrics: dict[str, Any]) -> dict[str, float]:
    """W&B keys and values of a `metrics.json`; intervals under `<key>_low` and `<key>_high`."""
    values = _task_values(metrics, "decode")
    for further in metrics.get("also", []):
        values |= _task_values(further, f"decode/{further['task']}")
    for mean in metrics.get("mean_gap_closed", []):
        if mean["value"] is not None:
            key = f"eval/mean_gap_closed/{slug(mean['model'])}/alpha{mean['alpha']:g}"
            values[key] = mean["value"]
    return values


def _task_values(metrics: dict[str, Any], decode: str) -> dict[str, float]:
    prefix = f"eval/{metrics['task']}"
    values: dict[str, float] = {}

    def add(key: str, entry: dict[str, Any]) -> None:
        values[f"{prefix}/{key}"] = entry["value"]
        if entry["ci95"] is not None:
            values[f"{prefix}/{key}_low"], values[f"{prefix}/{key}_high"] = entry["ci95"]

    for system in measured_systems(metrics):
        add(system.name, {"value": system.value, "ci95": (system.low, system.high)})
        if system.proxy is not None:
            at = f"{slug(system.base_model or '')}/alpha{system.alpha:g}"
            for measure in MEASURES:
                if system.proxy[measure] is not None:
                    add(f"{measure}/{at}", system.proxy[measure])
    for entry in metrics["bases"]:
        if entry["proxy"]:
            found = best(entry, metrics["higher_is_better"])
            values[f"{prefix}/best_value/{slug(entry['model'])}"] = found["value"]
            values[f"{prefix}/best_alpha/{slug(entry['model'])}"] = found["alpha"]
    for name, parts in metrics.get("parts", {}).items():
        values |= {f"{prefix}/{name}/{part}": value for part, value in parts.items()}
    if "uncounted" in metrics:
        values[f"{prefix}/num_uncounted"] = metrics["uncounted"]["num_questions"]
    for name, decoding in metrics.get("decoding", {}).items():
        for key, value in decoding.items():
            if isinstance(value, int | float):
                values[f"{decode}/{name}/{key}"] = value
        for count, times in enumerate(decoding["accepted_drafts"]):
            values[f"{decode}/{name}/accepted_drafts/{count}"] = times
        for stage, seconds in decoding["seconds"].items():
            values[f"{decode}/{name}/seconds/{stage}"] = seconds
    return values


def alpha_rows(metrics: dict[str, Any]) -> list[dict[str, float]]:
    """W&B rows, one an alpha, that draw every base's results over alpha."""
    by_alpha: dict[float, dict[str, float]] = {}
    for own in (metrics, *metrics.get("also", [])):
        for entry in own["bases"]:
            prefix = f"over_alpha/{own['task']}/{slug(entry['model'])}"
            # With alpha 0 the proxy is the base, and the base closes nothing of its gap.
            start = {f"{prefix}/value": entry["base"]["value"], f"{prefix}/gain_over_base": 0.0}
            if any(proxy["gap_closed"] for proxy in entry["proxy"]):
                start[f"{prefix}/gap_closed"] = 0.0
            by_alpha.setdefault(0.0, {}).update(start)
            for proxy in entry["proxy"]:
                row = by_alpha.setdefault(proxy["alpha"], {})
                row[f"{prefix}/value"] = proxy["value"]
                found = {measure: proxy[measure] for measure in MEASURES if proxy[measure]}
                row |= {f"{prefix}/{name}": measured["value"] for name, measured in found.items()}
    return [{"over_alpha/alpha": alpha, **by_alpha[alpha]} for alpha in sorted(by_alpha)]


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
            # a judged completion has nothing that would be read off it
            read_off = "prediction" if "prediction" in answer else "completion"
            row += [answer[read_off], answer["score"]]
        rows.append(row)
    return columns, rows
