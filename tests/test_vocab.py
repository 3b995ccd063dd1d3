"""Vocabularies are compared token by token, and a declared alignment combines what is shared."""

import pytest
import torch
from support.models import byte_tokenizer

from decode.models.vocab import align


def test_identical_vocabularies_keep_the_tokenizers_size():
    vocabulary = align(byte_tokenizer(), byte_tokenizer(), byte_tokenizer())
    assert vocabulary.size == 258
    assert vocabulary.shared is None


def test_the_same_size_is_not_the_same_vocabulary():
    base, other = byte_tokenizer(("<a>", "<b>")), byte_tokenizer(("<b>", "<a>"))
    with pytest.raises(ValueError, match="2 ids differ") as caught:
        align(base, base, other)
    text = str(caught.value)
    assert "base and anti-expert" in text
    assert "id 258: '<a>' / '<b>', id 259: '<b>' / '<a>'" in text
    assert "decode.vocabulary=shared" in text
    assert "\n" not in text


def test_a_longer_expert_vocabulary_is_named():
    with pytest.raises(ValueError, match="1 ids differ") as caught:
        align(byte_tokenizer(), byte_tokenizer(("<x>",)), byte_tokenizer())
    assert "id 258: None / '<x>'" in str(caught.value)
    assert "258 and 259 tokens" in str(caught.value)


def test_shared_keeps_the_bases_tokens_and_marks_the_common_ones():
    base, expert = byte_tokenizer(("<a>", "<b>", "<c>")), byte_tokenizer(("<a>", "<x>"))
    vocabulary = align(base, expert, expert, "shared")
    assert vocabulary.size == 261
    assert vocabulary.shared is not None
    assert vocabulary.shared[:259].all()
    assert not vocabulary.shared[259:].any()


def test_fit_cuts_padding_and_fills_what_is_missing():
    vocabulary = align(*[byte_tokenizer()] * 3)
    assert vocabulary.fit(torch.ones(2, 320)).shape == (2, 258)
    filled = vocabulary.fit(torch.ones(2, 250))
    assert filled.shape == (2, 258)
    assert filled[:, 250:].sum() == 0
    assert vocabulary.fit(torch.ones(2, 250), -torch.inf)[:, 250:].isneginf().all()


def test_a_long_token_that_differs_is_cut_off():
    one, other = byte_tokenizer(("x" * 4000,)), byte_tokenizer(("y" * 4000,))
    with pytest.raises(ValueError, match="ids differ") as caught:
        align(one, other, other)
    assert len(str(caught.value)) < 600
