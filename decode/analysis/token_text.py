"""Tokens as text, one by one."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..engine.stops import PARTIAL, added


def pieces(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: Sequence[int]
) -> list[str]:
    """What each token adds to the text; the last part of a split character brings all of it."""
    found, done = [], 0
    for end in range(1, len(ids) + 1):
        text = added(tokenizer, [*prompt, *ids[:done]], ids[done:end])
        is_partial = text.endswith(PARTIAL) and end < len(ids)
        found.append("" if is_partial else text)
        done = done if is_partial else end
    return found


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """A token as it reads: with its space, and by its name where it is no text of its own."""
    name = tokenizer.convert_ids_to_tokens(token_id)
    if name is None:
        return f"<{token_id}>"  # a row of the logits that no token belongs to
    assert isinstance(name, str), "one id is one token"
    if name.startswith("\u2581"):  # SentencePiece's space, which decoding alone would strip
        return name.replace("\u2581", " ")
    text = tokenizer.decode([token_id], skip_special_tokens=False)
    assert isinstance(text, str), "one token decodes to one text"
    return name if PARTIAL in text or not text else text
