"""What a completion reads as: what its tokens add to its prompt, whatever the tokenizer."""

import json
import random

import pytest
from support.models import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CodeLlamaTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    XLNetTokenizer,
)

from decode.analysis.token_text import pieces
from decode.backends.local import LocalCompleter
from decode.engine.request import Request, RolePrompt
from decode.engine.row import Row
from decode.engine.stops import PARTIAL, Stops, added
from decode.models.language_model import LanguageModel
from decode.models.prompts import RoleTokenizers

WORDS = ["def", "add", "(a,", "b):", "return", "a", "+", "the", "answer", "is", "Stop", "x", "'"]
RARE = ["\u00e9", "\u00fc\u00df", "\u4f60\u597d", "\U0001f600", "\U0001f600\U0001f680", "\u20ac5"]
GAPS = [" ", " ", " ", "\n", "\n\n", "  ", "    ", "\n    ", "\t", ""]
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def random_text(random: random.Random, num_words: int = 12) -> str:
    words = [random.choice(WORDS if random.random() < 0.7 else RARE) for _ in range(num_words)]
    return "".join(random.choice(GAPS) + word for word in words)


def sentencepiece() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in Llama 2's manner: spaces as U+2581, runs of them, bytes."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="never"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[*SPECIAL, *BYTES], show_progress=False
    )
    bpe.train_from_iterator([" ".join(WORDS), " ".join(WORDS) + "\n"] * 8, trainer)
    model = json.loads(bpe.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    for left, right in (("\u2581", "\u2581"), ("\u2581\u2581", "\u2581\u2581")):
        if left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
    return vocab, merges


def legacy() -> PreTrainedTokenizerFast:
    """A tokenizer.json as older versions wrote it: Prepend and Replace, and a Strip decoder."""
    state = json.loads(LlamaTokenizer(*sentencepiece()).backend_tokenizer.to_str())
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    state["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    state["pre_tokenizer"] = None
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token="<s>", eos_token="</s>"
    )


def byte_level() -> GPT2Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    bpe.train_from_iterator([" ".join(WORDS + RARE)] * 8, trainer)
    model = json.loads(bpe.to_str())["model"]
    return GPT2Tokenizer(model["vocab"], [tuple(merge) for merge in model["merges"]])


def wordpiece(clean_up: bool) -> BertTokenizer:
    parts = [*"abcdefghijklmnopqrstuvwxyzS(),:+'!?.\u4f60\u597d", *WORDS, "\u00e9", "n't"]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *parts, *(f"##{p}" for p in parts)]
    tokenizer = BertTokenizer(
        {token: index for index, token in enumerate(dict.fromkeys(vocab))},
        do_lower_case=False,
        clean_up_tokenization_spaces=clean_up,
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    return tokenizer


def unigram() -> XLNetTokenizer:
    pieces = [
        "<unk>",
        "\u2581",
        *sorted(set("".join(WORDS + RARE)) | {"\u2581" + w for w in WORDS}),
    ]
    tokenizer = XLNetTokenizer([(piece, -float(len(pieces) - len(piece))) for piece in pieces])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")
    return tokenizer


LOSSLESS = {
    "llama": lambda: LlamaTokenizer(*sentencepiece()),
    "llama, bos": lambda: LlamaTokenizer(*sentencepiece(), add_bos_token=True),
    "code llama": lambda: CodeLlamaTokenizer(*sentencepiece()),
    "gemma": lambda: GemmaTokenizer(*sentencepiece()),
    "legacy": legacy,
    "byte-level": byte_level,
}
LOSSY = {
    "wordpiece": lambda: wordpiece(False),
    "wordpiece, cleaned": lambda: wordpiece(True),
    "unigram": unigram,
}


def row(prompt, emitted=()) -> Row:
    made = Row(Request("row", RolePrompt.same(prompt), 10_000))
    made.token_ids += emitted
    return made


def cut(tokenizer, random, text: str) -> tuple[list[int], list[int], str]:
    """A text's tokens, as a prompt and its continuation, and the continuation's text."""
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    first = random.randint(len(ids) // 3, len(ids) - 2)
    while PARTIAL in (said := tokenizer.decode(ids[:first], skip_special_tokens=True)):
        first -= 1
    return ids[:first], ids[first:], text[len(said) :]


@pytest.mark.parametrize("name", LOSSLESS)
def test_text_is_what_the_tokens_add_to_the_prompt(name):
    """At every token: the whole characters there are, then marks for a part of one."""
    tokenizer, rng = LOSSLESS[name](), random.Random(0)
    for _ in range(40):
        prompt, rest, truth = cut(tokenizer, rng, "Q" + random_text(rng))
        assert added(tokenizer, prompt, rest) == truth
        assert "".join(pieces(tokenizer, prompt, rest)) == truth
        longest = 0
        for end in range(1, len(rest) + 1):
            seen = Stops(frozenset(), (), tokenizer).text(row(prompt, rest[:end]))
            whole = seen.rstrip(PARTIAL)
            assert truth.startswith(whole) and len(seen) - len(whole) <= 3
            assert len(whole) >= longest  # what was read once stays
            longest = len(whole)


@pytest.mark.parametrize("name", LOSSY)
def test_text_is_what_is_added_to_the_decoded_prompt(name):
    tokenizer, rng = LOSSY[name](), random.Random(0)
    for _ in range(60):
        ids = tokenizer("x" + random_text(rng))["input_ids"]
        first = rng.randint(1, len(ids) - 1)
        text = added(tokenizer, ids[:first], ids[first:])
        whole, prompt = tokenizer.decode([ids, ids[:first]], skip_special_tokens=True)
        assert whole.endswith(text)
        assert (prompt + text).replace(" ", "") == whole.replace(" ", "")
        if whole.startswith(prompt):
            assert prompt + text == whole


@pytest.mark.parametrize("name", LOSSLESS)
def test_stop_strings_are_found_at_their_token(name):
    tokenizer, rng = LOSSLESS[name](), random.Random(1)
    num_stopped = 0
    for _ in range(40):
        prompt, rest, truth = cut(tokenizer, rng, "Q" + random_text(rng, 16))
        start = rng.randrange(len(truth))
        stop = rng.choice([truth[start : start + rng.randint(1, 6)], truth[:2], " the", "\n\n"])
        stops, made = Stops(frozenset(), (stop, "never"), tokenizer), row(prompt)
        for token in rest:
            made.token_ids.append(token)
            is_there = stop in added(tokenizer, prompt, made.token_ids)
            assert (stops.reason(made) == "stop") == is_there
            if is_there:
                num_stopped += 1
                break
        assert stops.text(made) == truth.split(stop)[0]
    assert num_stopped > 10


def test_a_stop_does_not_begin_in_the_prompt():
    tokenizer = byte_level()
    made = row(tokenizer("Q:\n")["input_ids"], tokenizer("\n")["input_ids"])
    assert Stops(frozenset(), ("\n\n",), tokenizer).reason(made) is None


def test_a_prompt_may_end_inside_a_character_or_be_special_tokens_alone():
    for tokenizer in (LlamaTokenizer(*sentencepiece()), byte_level()):
        ids = tokenizer("a \U0001f600 b")["input_ids"]
        for first in range(1, len(ids)):
            text = added(tokenizer, ids[:first], ids[first:])
            said = tokenizer.decode(ids[:first]).rstrip(PARTIAL)
            assert said + text == "a \U0001f600 b"
    tokenizer = LlamaTokenizer(*sentencepiece())
    far = tokenizer("x")["input_ids"] + [tokenizer.bos_token_id] * 20
    assert added(tokenizer, far, tokenizer.convert_tokens_to_ids(["\u2581the"])) == " the"
    only = [tokenizer.bos_token_id]
    assert added(tokenizer, only, tokenizer.convert_tokens_to_ids(["\u2581the"])) == "the"
    assert added(tokenizer, [], []) == ""


@pytest.mark.parametrize("name", ["llama, bos", "legacy"])
def test_completions_keep_their_first_space(name):
    """A model that goes on with spaces and `return` is recorded so."""
    tokenizer = LOSSLESS[name]()
    model = tiny_model(0, vocab_size=len(tokenizer))
    spaces, word = tokenizer.convert_tokens_to_ids(["\u2581\u2581", "\u2581return"])
    banned = tuple(set(range(len(tokenizer))) - {spaces, word})
    completer = LocalCompleter(LanguageModel(model, tokenizer), RoleTokenizers.alone(tokenizer))
    prompt = "def add(a, b):\n"
    asked = [Request(n, prompt, n + 1, stop=("Stop",), banned_ids=banned) for n in range(4)]
    for done in completer.complete(asked):
        by_id = {spaces: "  ", word: " return"}
        assert done.text == "".join(by_id[id_] for id_ in done.token_ids)
