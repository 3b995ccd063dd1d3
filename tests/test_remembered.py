"""A model that remembers its prompts says what it would have said, and reads each prompt once."""

import pytest
import torch
from support.models import ARCHITECTURES, byte_tokenizer, tiny_model
from test_engine import IDS, run

from decode.models.in_training import Memory, RememberingModel
from decode.models.language_model import LanguageModel

TOKENIZER = byte_tokenizer()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_remembered_prompts_give_the_same_tokens(architecture):
    model = tiny_model(3, architecture)
    expected = run(LanguageModel(model, TOKENIZER), IDS)
    memory: Memory = {}
    assert run(RememberingModel(model, TOKENIZER, memory), IDS[:2], batch_size=1) == expected[:2]
    for batch_size in (1, 3, 16):  # two are known at first, and in other slots
        again = RememberingModel(model, TOKENIZER, memory)
        assert run(again, IDS[::-1], batch_size) == expected[::-1]
    assert set(memory) == {tuple(ids) for ids in IDS}


def test_a_prompt_is_read_once():
    model, widths = tiny_model(3), []
    model.register_forward_pre_hook(
        lambda _, args, given: widths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    memory: Memory = {}
    for _ in range(2):
        widths.clear()
        run(RememberingModel(model, TOKENIZER, memory), IDS)
    assert set(widths) == {1}  # completions only


def test_what_is_remembered_is_a_copy():
    memory: Memory = {}
    model = RememberingModel(tiny_model(3), TOKENIZER, memory)
    run(model, IDS)
    before = {key: [keys.clone() for keys, _ in row] for key, (row, _) in memory.items()}
    run(model, [[*ids, 7] for ids in IDS])  # other rows in the same slots
    for key, expected in before.items():
        row, logits = memory[key]
        assert all(torch.equal(keys, old) for (keys, _), old in zip(row, expected, strict=True))
        assert expected[0].shape[2] == len(key)
        assert logits.shape == (258,)
