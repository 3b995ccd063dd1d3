"""The training rows, counted before any weights load: `training_rows.json` and a table."""

import logging
from textwrap import fill
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import pack_dataset

from decode.jobs.files import FileChanged, read_json, write_json
from decode.jobs.folder import RunFolder
from decode.models.sources import load_tokenizer
from decode.reports.training_table import training_table
from decode.tracking.job import NullTracker

from ..preferences import TrainerConfig
from ..training import Training
from .tokens import BATCH_ROWS, IGNORED, first_rows
from .training_rows import TrainingRows

logger = logging.getLogger(__name__)

WARN_SHARE_CUT = 0.01


def rows_report(
    training_rows: TrainingRows, tokenizer: PreTrainedTokenizerBase, config: TrainerConfig
) -> dict[str, Any]:
    """Rows of each source, lengths in tokens, what is cut, and how full packed rows are.

    A stream is measured by its sample: `num_rows` says how many rows that is.

    Returns:
        As JSON. `num_cut` rows are longer than `max_length` and lose `num_lost_tokens` in all;
        `num_without_loss` have nothing to learn within it and are dropped by the trainer.
        `loss_share` is the share of all tokens that the loss is taken on. `packing` is None without
        it; its `efficiency` is the share of the packed rows' places that hold a token.
    """
    dataset = first_rows(training_rows, tokenizer, config)
    lengths, num_loss, num_without = _count(dataset, config)
    by_length, most = sorted(lengths), config.max_length
    over = [] if most is None else [length - most for length in lengths if length > most]
    loses = not config.packing or config.packing_strategy == "bfd"
    return {
        "sources": list(training_rows.sources),
        "is_sample": training_rows.stream is not None,
        "num_rows": len(lengths),
        "tokens": {
            "median": by_length[len(lengths) // 2],
            "p95": by_length[len(lengths) * 95 // 100],
            "max": by_length[-1],
            "total": sum(lengths),
        },
        "max_length": most,
        "num_cut": len(over),
        "num_lost_tokens": sum(over) if loses else 0,
        "num_without_loss": num_without,
        "loss_share": num_loss / sum(lengths),
        "packing": _packing(dataset, config) if config.packing else None,
    }


def report_rows(
    training_rows: TrainingRows,
    training: Training,
    config: TrainerConfig,
    folder: RunFolder,
    tracker: NullTracker,
) -> None:
    """Log the report of the rows as `training` reads them, write it to the folder and track it.

    A report of the same rows, model and keys of sft that is there already is used again.
    """
    made_for = {
        "digest": training_rows.digest,
        "model": training.model.name,
        training.method: training.settings,
    }
    path = folder.training_rows
    try:
        folder.check_extra(path)
        report = read_json(path) if path.is_file() else {}
    except FileChanged:  # it is made anew
        report = {}
    if report.get("made_for") != made_for:
        tokenizer = load_tokenizer(training.model)
        report = rows_report(training_rows, tokenizer, config) | {"made_for": made_for}
        write_json(path, report)
        folder.keep(path)
        logger.info("%s", _lines(report))
        if warning := cut_warning(report, training.method):
            logger.warning("%s", warning)
    tracker.summary(flat_numbers({k: v for k, v in report.items() if k != "made_for"}))


def _lines(report: dict[str, Any]) -> str:
    """The table and its sentences, 80 columns wide, without blank lines."""
    lines = filter(None, training_table(report).splitlines())
    return "\n".join(line if line.startswith("|") else fill(line, 80) for line in lines)


def cut_warning(report: dict[str, Any], method: str = "sft") -> str | None:
    """A warning if more than WARN_SHARE_CUT of the rows are cut, else None."""
    if report["num_cut"] <= WARN_SHARE_CUT * report["num_rows"]:
        return None
    share = report["num_cut"] / report["num_rows"]
    return (
        f"{report['num_cut']} of {report['num_rows']} training rows ({share:.1%}) are longer than "
        f"{method}.max_length {report['max_length']} and are cut: {report['num_lost_tokens']} "
        "tokens are lost"
    )


def flat_numbers(report: dict[str, Any], prefix: str = "training_rows") -> dict[str, float]:
    """The report's numbers by dotted name, for a dashboard; sources by their number."""
    numbers: dict[str, float] = {}
    for key, value in report.items():
        if isinstance(value, dict):
            numbers |= flat_numbers(value, f"{prefix}/{key}")
        elif isinstance(value, list):
            numbers |= flat_numbers({str(i): item for i, item in enumerate(value)}, prefix)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}/{key}"] = value
    return numbers


def _count(dataset: Dataset, config: TrainerConfig) -> tuple[list[int], int, int]:
    """The rows' lengths, tokens in the loss, and rows that the cut leaves without any."""
    lengths, num_loss, num_without = [], 0, 0
    is_cut = config.max_length is not None and not config.packing
    kept = slice(None, config.max_length)
    if config.truncation_mode == "keep_end" and config.max_length is not None:
        kept = slice(-config.max_length, None)
    for batch in dataset.iter(BATCH_ROWS):
        for labels in cast(dict[str, Any], batch)["labels"]:
            lengths.append(len(labels))
            num_loss += len(labels) - labels.count(IGNORED)
            num_without += is_cut and all(label == IGNORED for label in labels[kept])
    return lengths, num_loss, num_without


def _packing(dataset: Dataset, config: TrainerConfig) -> dict[str, Any]:
    """The size of the packed rows; the trainer finds them in the cache unless it shuffles first."""
    assert config.max_length is not None, "TRL packs to a length"
    chosen = dataset.select_columns(["input_ids", "labels"])
    packed = pack_dataset(chosen, config.max_length, config.packing_strategy)
    num_tokens = sum(map(len, packed["input_ids"]))
    return {
        "num_sequences": len(packed),
        "efficiency": num_tokens / (len(packed) * config.max_length),
    }
