"""Whether training rows fit: something is left to learn after the cut, and no row is too long.

Both are asked before weights load. TRL drops rows without anything to learn one by one, and fails
or trains on nothing once all are dropped; a row longer than a model's positions ends training at
its step.
"""

from transformers import PreTrainedTokenizerBase

from decode.models.sources import load_config, load_tokenizer

from ..preferences import TrainerConfig
from ..training import Training
from .tokens import IGNORED, end_of_text, first_rows, token_rows
from .training_rows import TrainingRows


def check_lengths(training_rows: TrainingRows, training: Training, config: TrainerConfig) -> None:
    """Check the rows of a training against `sft.max_length` and the model's positions.

    A stream is judged by its sample.

    Raises:
        ValueError: no row has anything left to learn, or a row is longer than the model can hold.
    """
    tokenizer = load_tokenizer(training.model)
    cut = kept(config)
    if not _learns(training_rows, tokenizer, config, cut):
        raise ValueError(
            f"sft.max_length: found {config.max_length}; cut to so many tokens, no training row "
            "has any of its completion left to learn; raise it"
        )
    text_config = load_config(training.model).get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    if not context or (config.max_length is not None and config.max_length <= context):
        return
    rows = first_rows(training_rows, tokenizer, config)
    longest = max(len(ids[cut]) for batch in rows.iter(1_000) for ids in batch["input_ids"])  # pyright: ignore
    if longest > context:
        raise ValueError(
            f"sft.max_length: found {config.max_length}, and a training row has {longest} tokens; "
            f"{training.model.name} can hold {context}: set it to at most that"
        )


def kept(config: TrainerConfig) -> slice:
    """The part of a row that the trainer keeps."""
    is_split = config.packing and config.packing_strategy != "bfd"
    if config.max_length is None or is_split:
        return slice(None)
    if config.truncation_mode == "keep_end" and not config.packing:
        return slice(-config.max_length, None)
    return slice(None, config.max_length)


def _learns(
    rows: TrainingRows, tokenizer: PreTrainedTokenizerBase, config: TrainerConfig, cut: slice
) -> bool:
    eos, completion_only = end_of_text(tokenizer, config), config.completion_only_loss is not False
    made = token_rows(rows.rows, tokenizer, eos, completion_only)
    return any(label != IGNORED for row in made for label in row["labels"][cut])
