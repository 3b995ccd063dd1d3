"""Experts with another tokenizer: the laws of identical ones, and a slow loop without caches."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models import (
    CORPUS,
    byte_tokenizer,
    save_tiny,
    save_trained,
    tiny_model,
    trained_tokenizer,
)
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from decode import Alpha, ProxyTuned, Rule, WeightedExpert
from decode.backends.completer import Continuation
from decode.engine.request import Request
from decode.evaluation.lineup import Contender, Lineup
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.models.speller import Speller, Tokens
from decode.models.text_reader import TextReader
from decode.serving.prompts import PromptReader
from decode.serving.systems import load_served

PROMPTS = ["Q: 1+1=", "hello", "é a longer prompt, to be ragged", "x"]
LIMIT = 12
BYTES: Any = byte_tokenizer()
SAMPLED = {"temperature": 1.5, "top_p": 0.95, "seed": 3}


def save_permuted(folder: Path, seed: int) -> str:
    """`save_tiny` with the same tokens under other ids, and the rows of its weights moved along."""
    order = torch.randperm(258, generator=torch.Generator().manual_seed(1))  # new id -> old id
    new_ids = {int(old): new for new, old in enumerate(order)}
    model: Any = tiny_model(seed)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.copy_(layer.weight[order])
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = new_ids[256], new_ids[257]
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text())
    vocab = state["model"]["vocab"]
    state["model"]["vocab"] = {token: new_ids[id_] for token, id_ in vocab.items()}
    for token in state["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    file.write_text(json.dumps(state))
    return str(folder)


def save_lora(folder: Path, small: str) -> str:
    """A LoRA adapter of a saved model, with weights that change something."""
    model: Any = get_peft_model(
        tiny_model(2), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    model.peft_config["default"].base_model_name_or_path = small
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(small).save_pretrained(folder)
    return str(folder)


def load(base: str, expert: str, small: str, vocabulary: str, **options) -> ProxyTuned:
    return ProxyTuned.from_pretrained(
        base, expert, small, device="cpu", vocabulary=vocabulary, **options
    )


def tokens(model: ProxyTuned, **options) -> list[tuple[int, ...]]:
    return [done.token_ids for done in model.generate(PROMPTS, LIMIT, **options)]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["two models", "lora", "permuted"])
def test_one_tokenizer_decodes_as_identical_does(tmp_path, kind):
    base = save_tiny(tmp_path / "base", 0, width=64)
    small = save_tiny(tmp_path / "small", 2)
    expert = save_tiny(tmp_path / "expert", 1)
    if kind == "lora":
        expert = save_lora(tmp_path / "lora", small)
    identical = load(base, expert, small, "identical")
    if kind == "permuted":
        small, expert = (save_permuted(tmp_path / f"other{seed}", seed) for seed in (2, 1))
        with pytest.raises(ValueError, match=r"ids differ.*or mapped to match tokens"):
            load(base, expert, small, "identical")
    mapped = load(base, expert, small, "mapped")
    assert mapped.steered.eos_ids == identical.steered.eos_ids == {256}
    for sampling, options in (({}, {"batch_size": 1}), (SAMPLED, {"num_draft_tokens": 4})):
        expected = tokens(identical, **sampling)
        assert len({*expected}) == len(PROMPTS)
        assert tokens(mapped, **options, **sampling) == expected
    asked = [
        Continuation(i, p, ids) for i, (p, ids) in enumerate(zip(PROMPTS, expected, strict=True))
    ]
    for one, other in zip(
        identical.completer().score(asked), mapped.completer().score(asked), strict=True
    ):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.by_role["expert"] == pytest.approx(other.by_role["expert"], abs=1e-4)
    ids = [
        mapped.tokenizers.base(prompt)["input_ids"] for prompt in PROMPTS
    ]  # as the base has them
    assert [mapped.tokenizers.encode(own) for own in ids] == [
        mapped.tokenizers.encode(prompt) for prompt in PROMPTS
    ]


@torch.inference_mode()
def slow(base: Any, small: Any, reader: TextReader, own_prompt: list[int], prompt: list[int]):
    """The base steered at alpha 1, with nothing kept: every step reads every text anew."""
    found: list[int] = []
    while len(found) < LIMIT and (not found or found[-1] != 256):
        logits = base(torch.tensor([[*prompt, *found]])).logits[0, -1, :258]
        text = [*own_prompt, *reader.ids(found)]
        expert, antiexpert = (m(torch.tensor([text])).logits[0, -1].log_softmax(-1) for m in small)
        shift = (expert - antiexpert)[reader.column.clamp(min=0)]
        logits = logits + torch.where(reader.column < 0, 0.0, shift)
        found.append(int(logits.argmax()))
    return tuple(found)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["mapped", "matched"])
def test_another_tokenizer_equals_the_loop_without_caches(tmp_path, mode):
    base = save_tiny(tmp_path / "base", 0, width=64)
    expert, small = (save_trained(tmp_path / f"small{seed}", seed) for seed in (1, 2))
    model = load(base, expert, small, mode)
    assert model.tokenizers.readers is not None
    reader, tokenizer = model.tokenizers.readers[0], model.tokenizers.expert
    networks = [one.model for one in model.steered.models]
    expected = [
        slow(
            networks[0],
            networks[1:],
            reader,
            tokenizer(prompt)["input_ids"],
            BYTES(prompt)["input_ids"],
        )
        for prompt in PROMPTS
    ]
    assert len({*expected}) == len(PROMPTS)
    for batch_size in (1, 3):
        assert tokens(model, batch_size=batch_size) == expected
    alone = load(base, base, base, "identical", alpha=0.0)
    assert tokens(model, alpha=0.0, **SAMPLED) == tokens(alone, **SAMPLED)
    asked = [
        Continuation(i, p, ids) for i, (p, ids) in enumerate(zip(PROMPTS, expected, strict=True))
    ]
    assert all(all(scored.is_greedy) for scored in model.completer(3).score(asked))


def pair(base: Any, small: Any, firsts=True) -> TextReader:
    return TextReader(Tokens(base), Speller(Tokens(small)), firsts)


def test_a_text_is_cut_as_the_small_models_tokenizer_cuts_it():
    base, small = BYTES, trained_tokenizer()
    reader = pair(base, small)
    for text in (*CORPUS, " the capital", "\n\n  a  b\t", "日本語 の text", "e\u0301 é"):
        assert reader.ids(base(text)["input_ids"]) == small(text)["input_ids"]
    ids = base(CORPUS[0])["input_ids"]
    cut = [reader.ids(ids[:n]) for n in range(len(ids))]
    assert any(b[: len(a)] != a for a, b in pairwise(cut))  # words change
    assert max(len(a) for a in cut) < len(ids) / 2


def test_bytes_of_no_whole_character_are_read_one_by_one():
    base, small = BYTES, trained_tokenizer()
    reader, whole = pair(base, small), base("the é")["input_ids"]
    begun = reader.ids(whole[:-1])
    assert begun == [*small("the ")["input_ids"], *reader.counterpart[whole[-2:-1]].tolist()]
    stray = [*whole[:-1], *base("the")["input_ids"]]  # the character never ends
    assert reader.ids(stray) == [*begun, *small("the")["input_ids"]]
    assert reader.ids(whole) == small("the é")["input_ids"]


def test_tokens_without_a_counterpart_have_the_place_of_their_first_piece_or_none():
    base, small = trained_tokenizer(), BYTES
    word = base.convert_tokens_to_ids("\u0120the")
    first, none = pair(base, small), pair(base, small, firsts=False)
    assert first.counterpart[word] == none.column[word] == -1
    assert first.column[word] == small(" ")["input_ids"][0]
    assert first.column[base.convert_tokens_to_ids("a")] == small("a")["input_ids"][0]


def test_special_tokens_are_matched_as_ends_then_by_name_then_by_role():
    base = trained_tokenizer(
        eos_token="<end>",
        bos_token="<begin>",
        pad_token="<|tool|>",
        additional_special_tokens=["<|tool|>", "<|im_end|>", "<|odd|>"],
    )
    small = trained_tokenizer(
        eos_token="</s>",
        bos_token="<s>",
        pad_token="<none>",
        additional_special_tokens=["<|tool|>", "<end_of_turn>", "<end>"],
    )
    reader = pair(base, small)

    def own(name: str) -> Any:
        return small.convert_ids_to_tokens(int(reader.column[base.convert_tokens_to_ids(name)]))

    assert own("<end>") == "</s>"
    assert own("<|tool|>") == "<|tool|>"
    assert own("<|im_end|>") == "<end_of_turn>"
    assert own("<begin>") == "<s>"
    odd = base.convert_tokens_to_ids("<|odd|>")
    assert reader.column[odd] == -1
    ids = [*base("the")["input_ids"], odd, *base(" answer")["input_ids"]]
    assert reader.ids(ids) == small("the answer")["input_ids"]
    tool = base.convert_tokens_to_ids("<|tool|>")
    assert reader.ids([tool]) == [small.convert_tokens_to_ids("<|tool|>")]
    spelt = base("<|tool|>", split_special_tokens=True)["input_ids"]
    assert small.convert_tokens_to_ids("<|tool|>") not in reader.ids(spelt)


def sentencepiece() -> Any:
    """As Llama-2's: a space is a letter, one is put before each text, bytes have numbers."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{n:02X}>": 3 + n for n in range(256)}}
    for piece in ("\u2581", *"abcdefghilnoprstuwACKLNPQ:.,;?=+0123456789", "\u2581t", "\u2581th"):
        vocab[piece] = len(vocab)
    vocab["\u2581the"] = len(vocab)
    merges = [("\u2581", "t"), ("\u2581t", "h"), ("\u2581th", "e")]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    state = json.loads(made.to_str())
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    steps = [{"type": "Prepend", "prepend": "\u2581"}, replace]
    state["normalizer"] = {"type": "Sequence", "normalizers": steps}
    made = Tokenizer.from_str(json.dumps(state))
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def test_a_sentencepiece_model_goes_on_without_a_space_of_its_own():
    base, small = trained_tokenizer(), sentencepiece()
    reader = pair(base, small)

    def names(text: str) -> Any:
        return small.convert_ids_to_tokens(reader.ids(base(text)["input_ids"]))

    assert names(" the") == ["\u2581the"]
    assert names("the\n") == ["t", "h", "e", "<0x0A>"]
    back = pair(small, base)
    assert (
        back.ids(small.convert_tokens_to_ids(["\u2581the", "<0x0A>"]))
        == base(" the\n")["input_ids"]
    )
    same = pair(small, small)  # bytes that have two tokens stay apart
    assert same.counterpart.tolist() == [*range(len(small))]


def test_tokenizers_that_cannot_spell_every_text_are_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    plain = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    with pytest.raises(ValueError, match="no tokens for single bytes") as caught:
        pair(BYTES, plain)
    assert "\n" not in str(caught.value)
    changed = trained_tokenizer()
    changed.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ValueError, match="changes the text"):
        pair(BYTES, changed)


def test_models_that_cannot_roll_back_are_refused_before_weights_load(tmp_path):
    base = save_tiny(tmp_path / "base", 0)
    small = save_trained(tmp_path / "small", 1)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    config.update(layer_types=["linear_attention", "full_attention"])
    (tmp_path / "small" / "config.json").write_text(json.dumps(config))
    (tmp_path / "small" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be rolled back") as caught:
        load(base, small, small, "mapped")
    assert "\n" not in str(caught.value)


def test_a_row_that_outgrows_the_expert_goes_on_as_the_base(tmp_path, caplog):
    base = save_tiny(tmp_path / "base", 0, width=64)
    folders = [save_trained(tmp_path / f"small{seed}", seed) for seed in (1, 2)]
    whole = load(base, folders[0], folders[1], "mapped").generate(["the the the"], 16)[0]
    for folder in folders:
        file = Path(folder) / "config.json"
        file.write_text(
            file.read_text().replace(
                '"max_position_embeddings": 512', '"max_position_embeddings": 10'
            )
        )
    found = load(base, folders[0], folders[1], "mapped").generate(["the the the"], 16)[0]
    alone = load(base, base, base, "identical", alpha=0.0)
    assert found.token_ids[:3] == whole.token_ids[:3]
    assert found.token_ids != whole.token_ids
    assert "is longer than the 10 tokens" in caplog.text
    prompt = BYTES("the the the")["input_ids"]
    later = [*prompt, *found.token_ids[:12]]
    (rest,) = alone.completer().complete([Request(0, later, 4)])
    assert rest.token_ids == found.token_ids[12:]


def test_rules_and_further_experts_of_another_tokenizer(tmp_path):
    base = save_tiny(tmp_path / "base", 0, width=64)
    first, second, small = (save_trained(tmp_path / f"small{n}", n) for n in (1, 2, 3))
    more = [WeightedExpert(base, 0.5, base)]
    with pytest.raises(ValueError, match="choose experts of one family"):
        load(base, first, small, "mapped", more_experts=more)
    more = [WeightedExpert(second, 0.5, small)]
    model = load(base, first, small, "matched", more_experts=more)
    alphas = [0.0, 1.5, Alpha(1.0, Rule("expert")), Alpha(1.0, Rule(antiexpert=False))]
    together = model.generate(PROMPTS, 16, alpha=alphas, batch_size=4)
    for prompt, alpha, found in zip(PROMPTS, alphas, together, strict=True):
        assert model.generate([prompt], 16, alpha=alpha)[0].token_ids == found.token_ids


def test_a_server_takes_the_bases_ids(tmp_path):
    base = save_trained(tmp_path / "base", 0)  # with more ids than the expert
    expert, small = (save_tiny(tmp_path / f"small{seed}", seed) for seed in (1, 2))
    source = ExpertSource(ModelSource(expert), ModelSource(small))
    contender = Contender("base", ModelSource(base), None)
    lineup = Lineup((source,), (contender,), (Alpha(1.0),), vocabulary="mapped", device="cpu")
    (served,) = load_served(lineup, contender, {"proxy"}, 1)
    tokenizer: Any = served.tokenizers.base
    assert served.num_ids == len(tokenizer) > 258
    ids = tokenizer(CORPUS[1])["input_ids"]
    assert max(ids) > 258
    read = PromptReader(served, 512).text(ids)
    assert (read.base, read.expert) == (ids, BYTES(CORPUS[1])["input_ids"])
