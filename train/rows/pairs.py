"""Pairs of training rows as TRL's trainer of preferences takes them: a prompt and two answers."""

from collections.abc import Iterator
from typing import Any, cast

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from decode.jobs.files import json_digest

from ..preferences import PreferenceConfig
from .tokens import BATCH_ROWS, IGNORED, first_rows
from .training_rows import TrainingRows

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
FEATURES = Features({name: List(Value("int32")) for name in COLUMNS})


def pair_dataset(
    training_rows: TrainingRows, tokenizer: PreTrainedTokenizerBase, config: PreferenceConfig
) -> Dataset:
    """The trainer's data set, without the pairs whose prompt alone fills `max_length`.

    Of two rows, which follow each other, the first is chosen and the second rejected. The answers
    begin where the first of the two does (a prompt's last token may merge with an answer's).
    """
    rows = first_rows(training_rows, tokenizer, config)

    def pairs() -> Iterator[dict[str, list[int]]]:
        for batch in rows.iter(BATCH_ROWS):  # an even number of rows
            columns = cast(dict[str, Any], batch)
            found = list(zip(columns["input_ids"], columns["labels"], strict=True))
            for chosen, rejected in zip(found[::2], found[1::2], strict=True):
                start = min(_num_ignored(labels) for _, labels in (chosen, rejected))
                if config.max_length is None or start < config.max_length:
                    parts = (chosen[0][:start], chosen[0][start:], rejected[0][start:])
                    yield dict(zip(COLUMNS, parts, strict=True))

    name = json_digest([rows._fingerprint, config.max_length, "pairs"], num_digits=32)
    dataset = Dataset.from_generator(pairs, features=FEATURES, fingerprint=name)
    assert isinstance(dataset, Dataset)
    return dataset


def _num_ignored(labels: list[int]) -> int:
    return next((i for i, label in enumerate(labels) if label != IGNORED), len(labels))
