"""Names of the systems that a run compares.

Every system is the same task answered by other models: the anti-expert and the expert once, and for
each base the base itself, the proxy-tuned base at each alpha and rule, and the directly tuned
reference. The names are those of `predictions/<system>.jsonl`, of the tables and of the W&B keys. A
base goes by its slug, which the recipe decides.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

Role = Literal["antiexpert", "expert", "base", "proxy", "tuned"]


def check_slugs(slugs: Iterable[str]) -> None:
    """Raises ValueError if two bases have one slug: they would write to the same files."""
    seen: set[str] = set()
    for slug in slugs:
        if slug in seen:
            raise ValueError(
                f"two bases file their results under '{slug}'; name each base once, and give "
                "folders different names"
            )
        seen.add(slug)


def system_name(
    role: Role, slug: str | None = None, alpha: float | None = None, rule: str = ""
) -> str:
    """`antiexpert`, `expert`, `base-<slug>`, `tuned-<slug>` or `proxy-<slug>-<how it is steered>`.

    Raises:
        ValueError: the role needs a base's slug or an alpha that is not given.
    """
    if role in ("antiexpert", "expert"):
        return role
    if slug is None:
        raise ValueError(f"system '{role}' belongs to a base: its slug is missing")
    if role != "proxy":
        return f"{role}-{slug}"
    if alpha is None:
        raise ValueError("system 'proxy' belongs to an alpha: alpha is missing")
    return f"proxy-{slug}-{steering_name(alpha, rule)}"


def steering_name(alpha: float, rule: str = "") -> str:
    """`alpha0.5`, or with a rule's name `alpha0.5-expert0.1`: in files and W&B keys."""
    return f"alpha{alpha:g}-{rule}" if rule else f"alpha{alpha:g}"


def headline_alpha(alphas: Sequence[float]) -> float:
    """The alpha of the headline result: 1, or the nearest to it (of two, the smaller)."""
    return min(alphas, key=lambda alpha: (abs(alpha - 1.0), alpha))
