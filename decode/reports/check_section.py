"""What the checks of a training say, for the report: a sentence, a picture and a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.check_record import Checks, cost, finished_checks
from ..jobs.folder import RunFolder
from .figure import COLOURS, DPI, FAINT, INK, WIDTH_INCHES, in_percent, save
from .findings import percent
from .plots import name_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSSES = {"expert_loss": "expert", "proxy_loss": "proxy"}


def check_findings(run_dir: Path) -> list[str]:
    """A sentence on which weights became the expert; none if the training was not checked."""
    checks = finished_checks(RunFolder(run_dir))
    if not checks.checked:
        return []
    last = checks.checked[-1]["step"]
    kept = (checks.best or checks.checked[-1])["step"]
    top = max(checks.checked, key=lambda row: checks.metric.worth(row["proxy"]))
    lowest = min(checks.checked, key=lambda row: row.get("expert_loss", 0.0))
    loss = f"the loss was lowest at step {lowest['step']}; " if "expert_loss" in lowest else ""
    return [
        f"While the expert was trained, {len(checks.checked)} checks on "
        f"{len(top['scores']['proxy'])} validation rows saw {checks.base_slug} "
        f"proxy-tuned go from {percent(checks.first['base'])}% to "
        f"{percent(checks.checked[-1]['proxy'])}%, at best {percent(top['proxy'])}% at step "
        f"{top['step']}; {loss}the weights of step {kept} of {last} are the expert "
        f"(select_by {checks.first['select_by']}). "
        f"The checks took {cost(checks.rows) * 100:.0f}% of the time of training."
    ]


def checks_section(run_dir: Path) -> list[str]:
    """The checks step by step, drawn into `plots/proxy_check.png`; nothing if there are none."""
    checks, picture = finished_checks(RunFolder(run_dir)), run_dir / "plots" / "proxy_check.png"
    if not checks.checked:
        picture.unlink(missing_ok=True)  # of a training that is gone
        return []
    plot_checks(checks, picture)
    lines = [
        "## While the expert was trained",
        "",
        "![The proxy, its expert and the base against training steps](plots/proxy_check.png)",
        "",
        f"Alpha {checks.first['alpha']:g}; scores are percent, losses nats a token of the "
        "validation rows' own completions.",
        "",
        "| step | proxy | expert | proxy's loss | expert's loss |",
        "|---|---|---|---|---|",
    ]
    for row in checks.checked:
        losses = [f"{row[key]:.3f}" if key in row else "" for key in ("proxy_loss", "expert_loss")]
        mark = " (kept)" if row is checks.best else ""
        cells = [f"{row['step']}{mark}", percent(row["proxy"]), percent(row["expert"]), *losses]
        lines.append(f"| {' | '.join(cells)} |")
    return ["\n".join(lines)]


def plot_checks(checks: Checks, path: Path) -> None:
    """Draws scores against steps into `path`, and below them the losses, where there are any."""
    from matplotlib.figure import Figure

    has_losses = all(key in row for row in checks.checked for key in LOSSES)
    num_panels = 2 if has_losses else 1
    figure = Figure(figsize=(WIDTH_INCHES, 1.0 + 2.4 * num_panels), dpi=DPI, layout="constrained")
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    first = checks.first
    curves = {role: [row[role] for row in checks.checked] for role in ("proxy", "expert")}
    levels = {role: first[role] for role in ("base", "tuned") if role in first}
    _panel(panels[0], checks, curves, levels)
    in_percent(panels[0].yaxis)
    panels[0].set_ylabel(f"{checks.metric.words} (percent)")
    panels[0].set_title(
        f"{checks.base_slug} steered by the expert in training, "
        f"{len(first['scores']['base'])} validation rows",
        fontsize=10, fontweight="bold", color=INK, loc="left",
    )  # fmt: skip
    if has_losses:
        losses = {role: [row[key] for row in checks.checked] for key, role in LOSSES.items()}
        _panel(panels[1], checks, losses, {})
        panels[1].set_ylabel("loss (nats a token)")
    panels[-1].set_xlabel("training step" + (" (dotted: kept)" if checks.best else ""))
    save(figure, path)


def _panel(
    axes: "Axes", checks: Checks, curves: dict[str, list[float]], levels: dict[str, float]
) -> None:
    steps: list[Any] = [row["step"] for row in checks.checked]
    for role, values in curves.items():
        axes.plot(steps, values, color=COLOURS[role], linewidth=2, marker="o", markersize=4)
    for role, value in levels.items():
        axes.axhline(value, color=COLOURS[role], linewidth=1.5, linestyle=(0, (4, 2)), zorder=1)
    if checks.best is not None:
        axes.axvline(checks.best["step"], color=INK, linewidth=1, linestyle=":", zorder=1)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    name_lines(axes, {**{role: values[-1] for role, values in curves.items()}, **levels})
