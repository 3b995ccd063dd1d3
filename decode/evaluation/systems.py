"""Names of the systems a run compares, and the flat list of them behind `metrics.json`.

Every system is the same task answered by other models: the anti-expert and the expert once, and for
each base the base itself, the proxy-tuned base at each alpha, and the directly tuned reference.
The names are those of `predictions/<system>.jsonl`, of the tables and of the W&B keys.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["antiexpert", "expert", "base", "proxy", "tuned"]


@dataclass(frozen=True, slots=True)
class MeasuredSystem:
    """One system's value in `metrics.json`.

    Attributes:
        name: as `system_name` says it.
        role: what the system is; `base_model` and `alpha` are None where the role has none.
        value, low, high: the metric and its 95% interval, fractions.
        proxy: for a proxy its whole entry (gains and gap closed), else None.
    """

    name: str
    role: Role
    base_model: str | None
    alpha: float | None
    value: float
    low: float
    high: float
    proxy: dict[str, Any] | None = None


def slug(model: str) -> str:
    """The last path component of a model's hub id or folder, under which its results are filed."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def check_slugs(models: Iterable[str]) -> None:
    """Nothing, if the bases' results can be told apart.

    Raises:
        ValueError: two bases have the same slug, so would write to the same prediction files.
    """
    seen: dict[str, str] = {}
    for model in models:
        if slug(model) in seen:
            raise ValueError(
                f"bases '{seen[slug(model)]}' and '{model}' both file their results under "
                f"'{slug(model)}'; name each base once, and give folders different names"
            )
        seen[slug(model)] = model


def system_name(role: Role, base_model: str | None = None, alpha: float | None = None) -> str:
    """`antiexpert`, `expert`, `base-<slug>`, `proxy-<slug>-alpha<a>` or `tuned-<slug>`.

    Raises:
        ValueError: the role needs a base model or an alpha that is not given.
    """
    if role in ("antiexpert", "expert"):
        return role
    if base_model is None:
        raise ValueError(f"system '{role}' belongs to a base: base_model is missing")
    if role != "proxy":
        return f"{role}-{slug(base_model)}"
    if alpha is None:
        raise ValueError("system 'proxy' belongs to an alpha: alpha is missing")
    return f"proxy-{slug(base_model)}-alpha{alpha:g}"


def measured_systems(metrics: dict[str, Any]) -> list[MeasuredSystem]:
    """All systems of a `metrics.json`, in reading order: anti-expert, expert, then base by base."""
    found = [
        _measured("antiexpert", metrics["antiexpert"]),
        _measured("expert", metrics["expert"]),
    ]
    for entry in metrics["bases"]:
        model = entry["model"]
        found.append(_measured("base", entry["base"], model))
        found += [_measured("proxy", proxy, model, proxy["alpha"]) for proxy in entry["proxy"]]
        if entry["tuned"] is not None:
            found.append(_measured("tuned", entry["tuned"], model))
    return found


def headline(entry: dict[str, Any]) -> dict[str, Any]:
    """The proxy entry of one base that a report speaks of: alpha 1, or the alpha nearest to it.

    Never the best one, which would be picked on the very rows it is then judged by.
    """
    return min(entry["proxy"], key=lambda proxy: abs(proxy["alpha"] - 1.0))


def best(entry: dict[str, Any], higher_is_better: bool) -> dict[str, Any]:
    """The proxy entry of one base with the best value."""
    sign = 1 if higher_is_better else -1
    return max(entry["proxy"], key=lambda proxy: sign * proxy["value"])


def _measured(
    role: Role, entry: dict[str, Any], base_model: str | None = None, alpha: float | None = None
) -> MeasuredSystem:
    low, high = entry["ci95"]
    return MeasuredSystem(
        name=system_name(role, base_model, alpha),
        role=role,
        base_model=base_model,
        alpha=alpha,
        value=entry["value"],
        low=low,
        high=high,
        proxy=entry if role == "proxy" else None,
    )
