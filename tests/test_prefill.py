"""Prompts cut into forwards: everything once, little padding, never over the budget."""

import random

import pytest
import torch
from support.models import byte_tokenizer, tiny_model

from decode.models.language_model import LanguageModel
from decode.models.prefill import PADDING_LIMIT, prefill_chunks

DRAWS = random.Random(3)
RAGGED = [[DRAWS.randrange(1000) for _ in range(DRAWS.randint(1, 90))] for _ in range(40)]


def read_back(chunks, num_prompts: int) -> list[dict[int, int]]:
    """Token by position of every prompt, as the chunks write them."""
    written: list[dict[int, int]] = [{} for _ in range(num_prompts)]
    for chunk in chunks:
        for row, ids, positions in zip(chunk.rows, chunk.ids, chunk.positions, strict=True):
            for id_, position in zip(ids, positions, strict=True):
                if position is not None:
                    assert position == len(written[row])  # in order, nothing twice
                    written[row][position] = id_
    return written


@pytest.mark.parametrize("num_tokens", [1, 7, 64, 500, 100_000])
def test_chunks_cover_every_prompt_once_and_in_order(num_tokens):
    chunks = list(prefill_chunks(RAGGED, num_tokens))
    written = read_back(chunks, len(RAGGED))
    assert [list(tokens.values()) for tokens in written] == RAGGED
    for chunk in chunks:
        assert len(chunk.rows) * len(chunk.ids[0]) <= num_tokens


def test_the_last_column_of_a_last_chunk_holds_every_last_token():
    finals = {}
    for chunk in prefill_chunks(RAGGED, 64):
        if chunk.is_last:
            for row, ids, positions in zip(chunk.rows, chunk.ids, chunk.positions, strict=True):
                assert row not in finals
                finals[row] = (ids[-1], positions[-1])
    assert finals == {i: (prompt[-1], len(prompt) - 1) for i, prompt in enumerate(RAGGED)}


def test_prompts_of_different_lengths_are_not_padded_to_the_longest():
    computed = sum(len(c.rows) * len(c.ids[0]) for c in prefill_chunks(RAGGED))
    wanted = sum(map(len, RAGGED))
    assert computed <= PADDING_LIMIT * wanted
    assert len(RAGGED) * max(map(len, RAGGED)) > 1.5 * wanted  # what one batch would compute


def test_prompts_of_one_length_are_one_forward():
    (chunk,) = prefill_chunks([[1, 2, 3]] * 5)
    assert chunk.rows == list(range(5))
    assert chunk.is_last


def test_rows_of_a_chunk_are_in_order():
    chunks = [chunk.rows for chunk in prefill_chunks([[1] * 8, [1] * 9, [1] * 10])]
    assert chunks == [[0, 1, 2]]


def test_neighbouring_slots_are_written_as_a_range(monkeypatch):
    asked = []
    original = LanguageModel.run

    def run(self, network, ids, slots, *where, **options):
        asked.append(slots)
        return original(self, network, ids, slots, *where, **options)

    monkeypatch.setattr(LanguageModel, "run", run)
    model = LanguageModel(tiny_model(0), byte_tokenizer())
    model.make_room(20, 4, 0)
    prompts = [[5, 6, 7, 8, 9], [7, 8, 9, 10], [11, 12, 13, 14]]
    alone = torch.cat([model.fill([prompt], [2]) for prompt in prompts])
    assert asked == [range(2, 3)] * 3
    for slots, expected in (([1, 2, 3], range(1, 4)), ([3, 0, 1], [3, 0, 1])):
        together = model.fill(prompts, slots)
        assert asked.pop() == expected
        torch.testing.assert_close(together, alone)
