"""A proxy's own completions, token by token: each model's likeliest tokens, and the shift.

One row a completion, kept on disk as it is made: a killed analysis goes on where it stopped. Read
with the models that made the completions, which is checked before weights load.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..backends.local import LocalCompleter, fewer_rows
from ..engine.logits import proxy_logits
from ..engine.row import Row
from ..engine.rule import PAPER
from ..evaluation.experiment import Experiment
from ..evaluation.lineup import System
from ..evaluation.loaded import Completers
from ..evaluation.prediction_file import PredictionFile
from ..evaluation.settings import check_models
from ..jobs.files import read_json, text_digest
from ..jobs.folder import RunFolder
from ..jobs.seals import SEALED
from ..jobs.terminal import Progress
from ..models.forced import ROLES, RoleLogits, forced_role_logits
from ..models.language_model import ids as prompt_ids
from ..models.sources import load_tokenizer
from ..models.steered import Steered
from .shifts import candidates, logprobs, shifts
from .token_text import pieces, token_text

logger = logging.getLogger(__name__)

NUM_CANDIDATES = 5
DIGITS = 6  # kept of a probability or its logarithm

Rows = list[dict[str, Any]]


def token_rows(
    completers: Completers,
    experiment: Experiment,
    system: System,
    predictions: Rows,
    num_rows: int,
    folder: RunFolder,
) -> Rows:
    """The first `num_rows` predictions of a proxy, each with its `tokens`.

    Args:
        completers: of an experiment with the same models.
        predictions: the system's rows, one for each of `experiment.row_ids`, in order.

    Raises:
        SettingsChanged: the predictions were made by other models than these, or the
            analysis that was begun is of other predictions.
        ValueError: the predictions hold no token ids.
    """
    check_models(experiment.lineup, system, folder)
    path = folder.tokens(system.name)
    folder.claim(
        path,
        {
            "made_with": read_json(folder.settings(folder.predictions(system.name))),
            "predictions": text_digest(row["completion"] for row in predictions),
            "num_candidates": NUM_CANDIDATES,
            **SEALED,
        },
    )
    chosen = predictions[:num_rows]
    if any("token_ids" not in row for row in chosen):
        raise ValueError(
            f"{folder.predictions(system.name)}: rows without token_ids; decode them again, "
            "in another output_dir, with decode/run.py"
        )
    file = PredictionFile(path, [row["id"] for row in chosen], seals=folder.seals(path))
    if not file.missing:
        return file.finish()
    reader = _Reader(completers, experiment, system)
    # Rows of about one length go together; they are filed in their own order.
    waiting = sorted(file.missing, key=lambda place: chosen[place]["num_tokens"])
    batch_size = experiment.lineup.batch_size
    stage, num_read = f"reading {experiment.task}, {system.name}", len(chosen) - len(waiting)
    with Progress(stage, len(chosen), num_done=num_read) as progress:
        while waiting:
            batch = waiting[:batch_size]
            try:
                read = reader.read(batch, [chosen[place] for place in batch])
            except torch.OutOfMemoryError as error:
                batch_size = fewer_rows(batch_size, error)
                continue
            for place, tokens in zip(batch, read, strict=True):
                file.add({**_head(chosen[place]), "tokens": tokens})
            waiting = waiting[len(batch) :]
            progress.add(len(batch))
    return file.finish()


class _Reader:
    """Forced decoding of completions with a proxy's models."""

    def __init__(self, completers: Completers, experiment: Experiment, system: System) -> None:
        assert system.contender is not None, "a proxy has a base"
        self._completers = completers
        self._tokenizer = load_tokenizer(system.contender.loaded_base)
        self._experiment, self._system = experiment, system
        self._completer: LocalCompleter | None = None
        self._texts: dict[int, str] = {}

    def read(self, places: Sequence[int], rows: Rows) -> list[list[dict[str, Any]]]:
        """The tokens of the prediction rows at `places`, as they are filed."""
        if self._completer is None:
            completer = self._completers.of(self._system)
            assert isinstance(completer, LocalCompleter), "the analysis reads models in memory"
            self._completer = completer
        model, tokenizers = self._completer.model, self._completer.tokenizers
        assert isinstance(model, Steered), "a proxy is a steered model"
        found: list[list[dict[str, Any]]] = [[] for _ in rows]
        emitted = [row["token_ids"] for row in rows]
        # What would follow the last token is not needed.
        requests = self._experiment.requests(self._system, places)
        rows_read = [  # thinking is beyond what a request asks for
            Row(replace(one, prompt=tokenizers.encode(one.prompt), max_new_tokens=len(ids)))
            for one, ids in zip(requests, emitted, strict=True)
        ]
        steps = forced_role_logits(model, rows_read, [ids[:-1] for ids in emitted])
        for first, logits in steps:
            for row, ids in enumerate(emitted):
                if len(ids) > first:
                    said = logits.at(row, len(ids) - first)
                    found[row] += self._records(said, ids[first:][: len(said.proxy)])
        for row, read, records in zip(rows, rows_read, found, strict=True):
            text_ids = row["token_ids"]
            if row["finish_reason"] != "length":
                records[-1]["is_end"] = True
                text_ids = text_ids[:-1]
            texts = pieces(self._tokenizer, prompt_ids(read), text_ids)
            for record, piece in zip(records, texts, strict=False):
                record["text"] = piece
        return found

    def _records(self, logits: RoleLogits, ids: list[int]) -> list[dict[str, Any]]:
        device = logits.proxy.device
        emitted = torch.tensor(ids, device=device)
        moved = shifts(logits.base, logits.proxy, emitted)
        small = {
            role: logprobs(getattr(logits, role), emitted).tolist()
            for role in ("expert", "antiexpert")
        }
        top = {role: candidates(getattr(logits, role), NUM_CANDIDATES) for role in ROLES}
        by_formula = self._by_formula(logits)
        return [
            {
                **({} if by_formula is None else {"formula_token": by_formula[step]}),
                "id": id_,
                "text": self._text(id_),
                "is_end": False,
                "base_logprob": _number(moved.base_logprob[step]),
                "expert_logprob": _number(small["expert"][step]),
                "antiexpert_logprob": _number(small["antiexpert"][step]),
                "proxy_logprob": _number(moved.proxy_logprob[step]),
                "delta_logprob": _number(moved.delta_logprob[step]),
                "delta_probability": _number(moved.delta_probability[step]),
                "base_rank": int(moved.base_rank[step]),
                "proxy_rank": int(moved.proxy_rank[step]),
                "is_top1_changed": bool(moved.is_top1_changed[step]),
                "total_variation": _number(moved.total_variation[step]),
                "top": {
                    role: [
                        [other, self._text(other), _number(value)] for other, value in said[step]
                    ]
                    for role, said in top.items()
                },
            }
            for step, id_ in enumerate(ids)
        ]

    def _by_formula(self, logits: RoleLogits) -> list[int] | None:
        """What the formula would choose at each step; None where the rule is no other."""
        alpha, model = self._system.alpha, self._completer and self._completer.model
        assert alpha is not None and isinstance(model, Steered)
        if alpha.rule == PAPER or len(model.steering) > 1:  # of several, one is recorded
            return None
        small = logits.expert, logits.antiexpert
        shared = model.vocabulary.shared
        shared = None if shared is None else shared.to(logits.base.device)
        return proxy_logits(logits.base, *small, alpha.value, shared).argmax(-1).tolist()

    def _text(self, token_id: int) -> str:
        if token_id not in self._texts:
            self._texts[token_id] = token_text(self._tokenizer, token_id)
        return self._texts[token_id]


def _head(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("id", "prompt", "completion", "answers", "score", "finish_reason", "num_tokens")
    return {key: row[key] for key in keys}


def _number(value: torch.Tensor | float) -> float | None:
    """Rounded; None for what JSON cannot say (a token that is ruled out)."""
    number = float(value)
    return round(number, DIGITS) if math.isfinite(number) else None
