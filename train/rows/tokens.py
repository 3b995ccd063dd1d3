"""Training rows as tokens, as TRL would make them, kept on disk by their content.

TRL prepares rows one by one and inside the trainer, once the weights are there; made here they can
be counted before, and a later run with the same rows and the same tokenizer finds them. The trainer
cuts, packs and shuffles them.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import transformers
from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase
from trl.data_utils import common_prefix_length

from data import TrainRow
from decode.jobs.files import json_digest
from decode.jobs.terminal import Progress
from decode.models.prompts import text_ids

from ..preferences import TrainerConfig
from .training_rows import TrainingRows

IGNORED = -100  # the label that is left out of the loss
BATCH_ROWS = 1_000
FORMAT = 2  # of the cached rows; another number ignores older ones
FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int64"))})


def token_rows(
    rows: Iterable[TrainRow],
    tokenizer: PreTrainedTokenizerBase,
    eos: str,
    completion_only: bool = True,
) -> Iterator[dict[str, list[int]]]:
    """`input_ids` and `labels` of each row: prompt and completion, ended by `eos`.

    Labels of the prompt are IGNORED if the loss is on completions only. Where the prompt's last
    token would merge with the completion, the completion begins with the merged token.
    """
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH_ROWS)):
        completions = [
            row.completion if row.completion.endswith(eos) else row.completion + eos
            for row in batch
        ]
        wholes = [row.prompt + text for row, text in zip(batch, completions, strict=True)]
        prompt_ids = text_ids(tokenizer, [row.prompt for row in batch])
        whole_ids = text_ids(tokenizer, wholes)
        for prompt, whole in zip(prompt_ids, whole_ids, strict=True):
            start = common_prefix_length(prompt, whole) if completion_only else 0
            yield {"input_ids": whole, "labels": [IGNORED] * start + whole[start:]}


def token_dataset(
    training_rows: TrainingRows, tokenizer: PreTrainedTokenizerBase, config: TrainerConfig
) -> Dataset | IterableDataset:
    """The trainer's data set: all rows from the cache, or a stream.

    The cache is that of `datasets` (HF_DATASETS_CACHE, in `generator/`) and is safe to delete.
    Of several processes one fills it and the others wait.

    Raises:
        ValueError: the tokenizer has no end-of-text token.
    """
    eos = end_of_text(tokenizer, config)
    completion_only = config.completion_only_loss is not False
    stream = training_rows.stream
    if stream is not None:
        return IterableDataset.from_generator(
            lambda: token_rows(stream(), tokenizer, eos, completion_only), features=FEATURES
        )
    return first_rows(training_rows, tokenizer, config)


def first_rows(
    training_rows: TrainingRows, tokenizer: PreTrainedTokenizerBase, config: TrainerConfig
) -> Dataset:
    """All rows as tokens, from the cache if they are there; of a stream its sample."""
    eos = end_of_text(tokenizer, config)
    completion_only = config.completion_only_loss is not False

    def every_row() -> Iterator[dict[str, list[int]]]:
        rows = training_rows.rows
        progress = Progress("tokenizing training rows", len(rows), is_part=True)
        return progress.follow(token_rows(rows, tokenizer, eos, completion_only))

    settings = [training_rows.digest, tokenizer_digest(tokenizer), eos, completion_only, FORMAT]
    name = json_digest(settings, num_digits=32)
    dataset = Dataset.from_generator(every_row, features=FEATURES, fingerprint=name)
    assert isinstance(dataset, Dataset)
    return dataset


def end_of_text(tokenizer: PreTrainedTokenizerBase, config: TrainerConfig) -> str:
    """The token that ends every training row.

    Raises:
        ValueError: there is none, or a token of the recipe is not in the vocabulary.
    """
    for key in ("eos_token", "pad_token"):
        token = getattr(config, key)
        if token is not None and token not in tokenizer.get_vocab():
            raise ValueError(f"sft.{key}: '{tokenizer.name_or_path}' has no token {token!r}")
    eos = config.eos_token or tokenizer.eos_token
    if not isinstance(eos, str):
        raise ValueError(
            f"'{tokenizer.name_or_path}' has no end-of-text token; name one in sft.eos_token"
        )
    return eos


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A short name for a tokenizer's rules."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = [sorted(tokenizer.get_vocab().items()), str(tokenizer)]
    else:
        rules = json.loads(backend.to_str())
        rules = {k: v for k, v in rules.items() if k not in ("padding", "truncation")}
    parts = [type(tokenizer).__name__, transformers.__version__, rules]
    return json_digest(parts)
