"""A W&B workspace as plain data: which panels a team looks at, and the keys they show.

The keys are those of `dashboard.py`, of the training curves and of the checks during training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..engine.rule import Alpha
from ..evaluation.systems import system_name


@dataclass(frozen=True, slots=True)
class Panel:
    """Keys in one picture: bars of the runs' last values, or lines over the key `x`."""

    kind: Literal["bars", "lines"]
    title: str
    keys: tuple[str, ...]
    x: str | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """Panels under a heading."""

    name: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class ShownBase:
    """A base whose results are shown: its slug, whether a ceiling is measured, or trained here."""

    slug: str
    has_tuned: bool
    is_trained: bool


def sections(
    tasks: Sequence[str],
    bases: Sequence[ShownBase],
    alphas: Sequence[Alpha],
    trains: bool,
    chooses: bool = False,
) -> list[Section]:
    """The workspace of an experiment, results first.

    Args:
        tasks: the one that is learnt first.
        bases, alphas: as the recipe lists them.
        trains: whether an expert is trained.
        chooses: whether validation rows choose how each base is steered.
    """
    names = _systems(bases, alphas)
    chosen = [f"chosen/{base.slug}" for base in bases if chooses]
    curves = [("train", "expert")] if trains else []
    curves += [(f"reference/{base.slug}", base.slug) for base in bases if base.is_trained]
    speeds = (("tokens per second", "tokens_per_second"), ("tokens a verify", "tokens_per_verify"))
    found = [
        Section("Results", tuple(_results(task, [*names, *chosen]) for task in tasks)),
        Section("Over alpha", tuple(_over_alpha(tasks, bases))),
        Section("Training", tuple(p for prefix, name in curves for p in _training(prefix, name))),
        Section("Proxy check", _proxy_check() if trains else ()),
        Section(
            "Decoding speed",
            tuple(
                Panel("bars", title, tuple(f"decode/{name}/{key}" for name in names))
                for title, key in speeds
            ),
        ),
    ]
    return [section for section in found if section.panels]


def _systems(bases: Sequence[ShownBase], alphas: Sequence[Alpha]) -> list[str]:
    names = [system_name("antiexpert"), system_name("expert")]
    for base in bases:
        names.append(system_name("base", base.slug))
        for alpha in sorted(alphas, key=lambda alpha: alpha.value):
            names.append(system_name("proxy", base.slug, alpha.value, alpha.rule.name))
        names += [system_name("tuned", base.slug)] if base.has_tuned else []
    return names


def _results(task: str, names: Sequence[str]) -> Panel:
    return Panel("bars", f"{task}: every system", tuple(f"eval/{task}/{name}" for name in names))


def _over_alpha(tasks: Sequence[str], bases: Sequence[ShownBase]) -> list[Panel]:
    ceilings = [base for base in bases if base.has_tuned]
    found = []
    for title, measure, shown in (
        ("gap closed over alpha", "gap_closed", ceilings),
        ("gain over the base", "gain_over_base", bases),
        ("metric over alpha", "value", bases),
    ):
        keys = tuple(f"over_alpha/{task}/{base.slug}/{measure}" for task in tasks for base in shown)
        found += [Panel("lines", title, keys, "over_alpha/alpha")] if keys else []
    return found


def _training(prefix: str, name: str) -> list[Panel]:
    curves = (
        ("loss", "loss"),
        ("token accuracy", "mean_token_accuracy"),
        ("grad norm", "grad_norm"),
    )
    return [
        Panel("lines", f"{name}: {title}", (f"{prefix}/{key}",), f"{prefix}/step")
        for title, key in curves
    ]


def _proxy_check() -> tuple[Panel, ...]:
    curves = (
        ("proxy, expert and base while training", ("proxy", "expert", "base")),
        ("gap closed while training", ("gap_closed", "gain_over_base")),
        ("losses on the checked rows", ("proxy_loss", "expert_loss")),
    )
    return tuple(
        Panel("lines", title, tuple(f"proxy_check/{key}" for key in keys), "proxy_check/step")
        for title, keys in curves
    )
