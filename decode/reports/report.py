"""What a run found, for a person: `report.md` with its pictures.

Everything is drawn from the run's records (metrics, predictions, recipe, environment), so a report
can be made again without a model. Bad news is said in the same plain words as good news.
"""

from pathlib import Path
from typing import Any

from ..evaluation.metrics import Decoding, Metrics
from ..jobs.files import write_text
from .check_section import check_findings, checks_section
from .choice_section import choice_section
from .examples import examples_section
from .findings import findings
from .overview import further_sections, overview_section
from .pair_table import pairs_section
from .plots import plot_alpha, plot_systems
from .tables import parts_table, systems_table
from .thinking_table import thinking_section
from .training_table import training_section
from .visible_table import visible_section

# What a reader asks first of a training; everything else is in recipe.yaml.
ESSENTIALS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "loss_type",
    "beta",
)
DECODE_ESSENTIALS = (
    "engine",
    "batch_size",
    "num_draft_tokens",
    "max_new_tokens",
    "num_samples",
    "pass_at",
    "temperature",
    "top_k",
    "top_p",
    "vocabulary",
)


def write_report(
    run_dir: Path,
    metrics: Metrics,
    predictions: dict[str, list[dict[str, Any]]],
    recipe: dict[str, Any],
    environment: dict[str, Any],
) -> None:
    """Write `report.md`, `plots/systems.png` and, with two alphas or more, `plots/alpha.png`.

    Args:
        run_dir: the run's folder.
        metrics: the task's; of a run's first task, with those of the further ones.
        predictions: the rows of each system, all in the same order, by system name.
        recipe: the resolved recipe.
        environment: what the run ran on; nested dicts and lists of anything JSON can say. A
            "command" in it is shown as the command that was given.
    """
    plot_systems(metrics, run_dir / "plots" / "systems.png")
    alpha_picture = run_dir / "plots" / "alpha.png"
    has_alphas = plot_alpha(metrics, alpha_picture)
    if not has_alphas:  # one of an earlier, longer list of alphas would tell another story
        alpha_picture.unlink(missing_ok=True)
    sections = [
        f"# {recipe.get('name', metrics.task)}: {metrics.task}",
        "\n".join(f"- {line}" for line in [*findings(metrics), *check_findings(run_dir)]),
        *overview_section(metrics),
        "![Every system with its 95% interval](plots/systems.png)",
        systems_table(metrics),
        *parts_table(metrics),
        *choice_section(metrics),
    ]
    if has_alphas:
        sections.append("![The metric against alpha](plots/alpha.png)")
    sections += [
        pairs_section(metrics),
        *thinking_section(metrics),
        examples_section(metrics, predictions),
        *further_sections(metrics),
        *checks_section(run_dir),
        *training_section(run_dir),
        *visible_section(metrics),
        *([_speed(metrics.decoding)] if metrics.decoding else []),
        _how(recipe, environment),
    ]
    write_text(run_dir / "report.md", "\n\n".join(sections) + "\n")


def _speed(decoding: dict[str, Decoding]) -> str:
    """What decoding took: only of rows decoded since the run was last started."""
    lines = [
        "## How fast it was decoded",
        "",
        "| system | rows | batch | tokens | tokens per second | tokens per verify "
        "| acceptance | memory, GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, taken in decoding.items():
        cells = [name, f"{taken.num_rows:,}", f"{taken.batch_size}", f"{taken.num_tokens:,}"]
        cells.append("" if (per := taken.tokens_per_second) is None else f"{per:.1f}")
        cells.append("" if (per := taken.tokens_per_verify) is None else f"{per:.2f}")
        cells.append("" if (rate := taken.acceptance_rate) is None else f"{rate * 100:.0f}%")
        cells.append("" if (peak := taken.peak_memory_gib) is None else f"{peak:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _how(recipe: dict[str, Any], environment: dict[str, Any]) -> str:
    """Recipe essentials, the environment, and the commands that do it again."""
    name = Path(str(recipe.get("name", "run"))).name
    resolved = f"{recipe.get('output_dir', '.')}/recipe.yaml"
    again = f"output_dir=runs/{name}-again"
    facts = [("seed", recipe.get("seed"))]
    for section in ("task", "expert"):
        facts += _flat(recipe.get(section) or {}, section)
    method = "dpo" if recipe.get("dpo") is not None else "sft"
    facts += _flat(_chosen(recipe.get(method), ESSENTIALS), method)
    decode = recipe.get("decode") or {}
    for number, base in enumerate(decode.get("bases") or []):
        facts += _flat(base, f"decode.bases[{number}]")
    facts += [("decode.alpha", decode.get("alpha"))]
    facts += _flat(decode.get("rule") or {}, "decode.rule")
    facts += _flat(decode.get("thinking") or {}, "decode.thinking")
    facts += _flat(_chosen(decode, DECODE_ESSENTIALS), "decode")
    lines = [
        "## How it was run",
        "",
        "All settings are in `recipe.yaml`; those asked for first:",
        "",
    ]
    lines += [f"- {key}: `{value}`" for key, value in facts if value is not None]
    lines += ["", "Environment:", ""]
    lines += [f"- {key}: `{value}`" for key, value in _flat(environment) if value is not None]
    lines += [
        "",
        "To do it all again, or the decoding alone with the expert that is here:",
        "",
        "```bash",
        f"accelerate launch train/{method}.py {resolved} {again}",
        f"python decode/run.py {resolved}",
        "```",
    ]
    return "\n".join(lines)


def _chosen(section: dict[str, Any] | None, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: section[key] for key in keys if key in section} if section else {}


def _flat(section: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and their values, nested dicts opened up."""
    pairs: list[tuple[str, Any]] = []
    for key, value in section.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        pairs += _flat(value, dotted) if isinstance(value, dict) else [(dotted, value)]
    return pairs
