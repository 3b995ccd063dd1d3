"""The mini family's tokenizer: byte-level BPE in which every digit is a token of its own.

Single digits keep sums learnable for very small models: 119 is always `1 1 9`, aligned with the
digits it was added from.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

EOS, BOS, PAD = SPECIALS = ("<|end|>", "<|begin|>", "<|pad|>")
EOS_ID, BOS_ID, PAD_ID = range(3)


def build_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` entries; it adds no special token by itself.

    Raises:
        ValueError: the documents hold too few pieces for so many entries.
    """
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"vocab_size: found {tokenizer.get_vocab_size()} entries in the stream, "
            f"{vocab_size} asked for; ask for fewer"
        )
    return tokenizer


def for_transformers(tokenizer: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    """`tokenizer` as transformers loads and saves it, for models that see `context` tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        bos_token=BOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
