"""Logits that are no numbers end decoding with one line, and are never read as a token."""

from pathlib import Path

import pytest
import torch
from support.decode_run import decode
from support.models import byte_tokenizer, tiny_model
from support.tiny_run import write_rows

from decode.backends.completer import Continuation, NotFinite
from decode.backends.local import LocalCompleter
from decode.engine.logits import proxy_logits
from decode.engine.request import Request
from decode.engine.sampling import Sampling
from decode.models.language_model import LanguageModel
from decode.models.pair import TwoModels
from decode.models.prompts import RoleTokenizers
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

TOKENIZER = byte_tokenizer()
TOKENIZERS = RoleTokenizers.alone(TOKENIZER)
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, repetition_penalty=1.3),
]
NOT_NUMBERS = [float("nan"), float("inf")]


def model(seed: int, number: float | None = None, after: int = 0) -> LanguageModel:
    """A model whose logits are all times `number`, once `after` tokens are read."""
    network = tiny_model(seed)
    if number is not None:
        head = network.lm_head
        forward = head.forward

        def broken(hidden):
            logits = forward(hidden)
            broken.num_read += hidden.shape[1]
            return logits * number if broken.num_read > after else logits

        broken.num_read = 0
        head.forward = broken
    return LanguageModel(network, TOKENIZER)


def overflowing(folder: Path, seed: int) -> str:
    """A folder of finite weights that overflow when the model computes."""
    network = tiny_model(seed)
    with torch.no_grad():
        network.lm_head.weight[:] = torch.finfo(torch.float32).max / 2
    network.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


def test_nan_stays_nan_and_minus_infinity_does_not_make_it():
    nan, inf = float("nan"), float("inf")
    base = torch.tensor([1.0, 1.0, 1.0, 1.0, -inf])
    expert = torch.tensor([nan, 2.0, -inf, -inf, 2.0])
    antiexpert = torch.tensor([1.0, nan, -inf, 2.0, 1.0])
    found = proxy_logits(base, expert, antiexpert, 1.0)
    assert found.isnan().tolist() == [True, True, False, False, False]
    assert found[2:].tolist() == [1.0, -inf, -inf]
    assert proxy_logits(base, expert, antiexpert, 0.0).equal(base)


@pytest.mark.parametrize("number", NOT_NUMBERS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_model_alone_names_the_row(number, sampling):
    completer = LocalCompleter(model(1, number), TOKENIZERS)
    request = Request("row 7", "ab", 8, sampling=sampling)
    with pytest.raises(NotFinite, match=r"^row 'row 7': the logits of the model are NaN") as error:
        list(completer.complete([request]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_drafts", [0, 2])
@pytest.mark.parametrize("role", ["base", "expert", "antiexpert"])
@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_the_role_is_named(role, number, num_drafts):
    seeds = {"base": 0, "expert": 1, "antiexpert": 2}
    models = {name: model(seed, number if name == role else None) for name, seed in seeds.items()}
    pair = TwoModels(models["expert"], models["antiexpert"])
    steered = Steered(models["base"], pair, Vocabulary(258), 1.0)
    completer = LocalCompleter(steered, TOKENIZERS, num_draft_tokens=num_drafts)
    with pytest.raises(
        NotFinite, match=f"row '3': the logits of {role} are NaN or infinite after 0"
    ):
        list(completer.complete([Request(3, "ab", 8)]))


def test_tokens_before_it_are_counted():
    broken = model(1, float("nan"), after=8)
    completer = LocalCompleter(broken, TOKENIZERS)
    with pytest.raises(NotFinite, match="after 8 tokens of the completion; set dtype to float32"):
        list(completer.complete([Request(0, "ab", 20)]))


def test_scores_are_refused_too():
    completer = LocalCompleter(model(1, float("nan")), TOKENIZERS)
    with pytest.raises(NotFinite, match="row '5': the logits of the model"):
        list(completer.score([Continuation(5, "ab", list(b"cd"))]))


@pytest.mark.parametrize(("role", "system"), [("expert", "expert"), ("base", "base-large")])
def test_a_run_ends_with_the_system_and_the_row(role, system, recipe, tmp_path):
    path = recipe(task={"name": "gsm8k", "eval": write_rows(tmp_path / "rows.jsonl", 2, 0)})
    overflowing(tmp_path / {"expert": "expert", "base": "large"}[role], 5)
    line = str(decode(path))
    assert line.startswith(f"error: gsm8k, {system}, row "), line
    assert "the logits of the model are NaN or infinite after 0 tokens" in line
    assert "\n" not in line
