"""Chats as each family's template writes them, token for token, and where their turns end."""

import json

import pytest
from support.chat_templates import FAMILIES, GEMMA, QWEN3, family_tokenizer
from support.decode_run import decode
from support.models import byte_tokenizer, tiny_model
from support.rows import jsonl

from decode import Chat, ProxyTuned, RolePrompt, Thinking
from decode.jobs.files import read_rows
from decode.models.chat import PromptForm, end_of_turn, reads_argument
from decode.models.language_model import LanguageModel
from decode.models.prompts import encode, text_ids

TURNS = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And 2+2?"},
]
PREFIX = {"role": "assistant", "content": "It is"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chat_is_what_apply_chat_template_writes(family):
    tokenizer = family_tokenizer(family)

    def theirs(messages, **options):
        return tokenizer.apply_chat_template(messages, return_dict=False, **options)

    asked = theirs(TURNS, add_generation_prompt=True)
    assert encode(tokenizer, Chat(TURNS)) == asked
    assert encode(tokenizer, Chat("1+1?")) == theirs(TURNS[:1], add_generation_prompt=True)
    begun = theirs([*TURNS, PREFIX], continue_final_message=True)
    assert encode(tokenizer, Chat([*TURNS, PREFIX], goes_on=True)) == begun
    assert tokenizer.decode(begun).endswith("It is")
    num_bos = int(family in ("llama3", "gemma"))
    assert asked.count(tokenizer.bos_token_id) == num_bos
    # The same chat as a text that the template wrote gets no second <bos> either.
    assert encode(tokenizer, tokenizer.decode(asked)) == asked
    assert text_ids(tokenizer, ["a"])[0].count(tokenizer.bos_token_id) == num_bos


@pytest.mark.parametrize("family", FAMILIES)
def test_a_completion_ends_where_the_template_ends_a_turn(family):
    tokenizer, (_, _, end) = family_tokenizer(family), FAMILIES[family]
    expected = tokenizer.convert_tokens_to_ids(end)
    assert end_of_turn(tokenizer) == expected != tokenizer.eos_token_id
    model = LanguageModel(tiny_model(0, vocab_size=len(tokenizer)), tokenizer)
    assert model.eos_ids == {256, expected}  # generation_config.json knows 256 alone


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "{{ raise_exception('no') }}",
        "{{ tools | length }}",
    ],
)
def test_a_template_without_an_end_of_turn_has_none(template):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    assert end_of_turn(tokenizer) is None


@pytest.mark.parametrize(
    ("family", "chat", "problem"),
    [
        ("gemma", Chat([{"role": "system", "content": "Be brief."}, *TURNS]), "System role not"),
        ("llama3", Chat("a", arguments={"enable_thinking": False}), "'enable_thinking' is no arg"),
        ("qwen3", Chat("a", arguments={"enable_thinkin": False}), "'enable_thinkin' is no argum"),
        ("qwen3", Chat("a", arguments={"tokenize": False}), "'tokenize' is no argument"),
        ("qwen3", Chat("a", arguments={"add_generation_prompt": False}), "is no argument"),
        ("gpt_oss", Chat("a", arguments={"thinking": True}), "'thinking' is no argument"),
        ("qwen3", Chat(TURNS, goes_on=True), "goes on from an assistant's message"),
        ("qwen3", Chat([]), "refuses this"),
    ],
)
def test_what_a_template_does_not_take_is_one_line(family, chat, problem):
    with pytest.raises(ValueError, match=problem) as error:
        encode(family_tokenizer(family), chat)
    assert "\n" not in str(error.value)


SYSTEM = {"role": "system", "content": "Be brief."}
PHI3 = (  # its first template, which has no branch for the system
    "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|><|assistant|>"
    "{% elif m.role == 'assistant' %}{{ m.content }}<|end|>{% endif %}{% endfor %}"
)
MISTRAL = (  # the system is part of the last message, if that is the user's
    "{% set turns = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% for m in turns %}{% if m.role == 'user' %}"
    "[INST] {% if loop.last and turns != messages %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content | trim }}<eos>{% endif %}{% endfor %}"
)
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
SYSTEM_BY_DEFAULT = (
    "{% if messages[0].role != 'system' %}Be brief.{% endif %}"
    "{% for m in messages %}{{ m.content }}{% endfor %}"
)
FLAGGED = (  # SmolLM3's kind: a word of the system's message is a setting
    "{{ messages[0].content.replace('/no_think', '') }}{{ '/no_think' in messages[0].content }}"
    "{% for m in messages[1:] %}{{ m.content }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "turns", "left_out"),
    [
        (PHI3, [SYSTEM, *TURNS], "system"),
        (PHI3, TURNS, None),
        (MISTRAL, [SYSTEM, *TURNS], None),
        (MISTRAL, [SYSTEM, *TURNS, PREFIX], "system"),
        (PARTS, TURNS, "user"),
        (SYSTEM_BY_DEFAULT, [SYSTEM, *TURNS], None),
        (FLAGGED, [{"role": "system", "content": "/no_think Think."}, *TURNS], None),
        (QWEN3, [TURNS[0], {"role": "assistant", "content": "<think>Hm</think>2"}], None),
    ],
)
def test_no_message_is_left_out_in_silence(template, turns, left_out):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    chat = Chat(turns, goes_on=turns[-1] is PREFIX)
    if left_out is None:
        assert turns[-1]["content"][-1:] in tokenizer.decode(encode(tokenizer, chat))
        return
    with pytest.raises(ValueError, match=f"leaves out the {left_out}'s message .*; ask without it"):
        encode(tokenizer, chat)


def test_an_argument_is_what_a_template_reads_whatever_words_it_has():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{%- macro head() -%}{%- if effort is not defined -%}{%- set effort = 1 -%}{%- endif -%}"
        "{{ effort }}{%- endmacro -%}{%- set day = strftime_now('%d') -%}{{ head() }} thinking "
        "{% for m in messages %}{% if m.name %}{% continue %}{% endif %}{% generation %}"
        "{{ m.content }}{{ day }}{{ 'tone' }}{% endgeneration %}{% endfor %}"
        "{% if think | default(true) %}{% endif %}"
    )
    words = ("effort", "day", "thinking", "name", "tone", "think")
    assert [one for one in words if reads_argument(tokenizer, one)] == ["effort", "think"]
    assert tokenizer.decode(encode(tokenizer, Chat("a", arguments={"effort": 7})))[0] == "7"


def test_templates_with_names_and_their_default():
    tokenizer = family_tokenizer("qwen3")
    ids = encode(tokenizer, Chat(TURNS))
    tokenizer.chat_template = {"tool_use": GEMMA, "default": QWEN3}
    assert encode(tokenizer, Chat(TURNS)) == ids
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = {"tool_use": QWEN3, "rag": QWEN3}
    problem = r"has no default among its chat templates \(tool_use, rag\); .* only be raw"
    for arguments in ({}, {"enable_thinking": False}):
        with pytest.raises(ValueError, match=problem):
            encode(tokenizer, Chat(TURNS, arguments=arguments))
    assert end_of_turn(tokenizer) is None is Thinking().marks(tokenizer)


def test_a_turn_may_end_with_what_begins_the_next_one():
    tokenizer = family_tokenizer("qwen3")
    glm = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    tokenizer.add_tokens(["<|user|>", "<|assistant|>"], special_tokens=True)
    tokenizer.chat_template = glm
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|user|>")


def test_a_form_puts_a_question_into_a_chat():
    tokenizer = family_tokenizer("qwen3")
    form = PromptForm(True, "Be brief.", "It is", {"enable_thinking": False})
    text = tokenizer.decode(encode(tokenizer, form.of("1+1?")))
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
        "<|im_start|>assistant\nIt is"
    )
    unthinking = PromptForm(True, arguments={"enable_thinking": False})
    text = tokenizer.decode(encode(tokenizer, unthinking.of("1+1?")))
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert PromptForm().of("1+1?") == "1+1?"
    assert [PromptForm().settings, PromptForm(True).settings] == [False, True]
    assert unthinking.settings == {"template": {"enable_thinking": False}}


def test_roles_may_read_chats_texts_and_ids(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    model = ProxyTuned.from_pretrained(*folders, device="cpu")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    own = model.tokenizers
    for tokenizer in (own.base, own.expert, own.antiexpert):
        tokenizer.chat_template = template + "{% if add_generation_prompt %}<a>{% endif %}"
    chat = "<user>1+1?</><assistant>2</><user>And 2+2?</><a>"
    ids = byte_tokenizer()("a")["input_ids"]
    asked = [Chat(TURNS), Chat([*TURNS, PREFIX], goes_on=True), RolePrompt("x", Chat("x"), ids)]
    expected = [chat, f"{chat[:-3]}<assistant>It is", RolePrompt("x", "<user>x</><a>", "a")]
    found = model.generate(asked, 8)
    assert found == model.generate(expected, 8)
    assert found[:1] != model.generate([chat], 8, expert_prompts=["1+1?"])
    with pytest.raises(ValueError, match="says what the expert reads"):
        model.generate([asked[2]], 8, chat_expert=True)


@pytest.mark.long
def test_a_run_of_a_thinking_chat_base(recipe, tmp_path):
    for name in ("large", "tuned", "small", "expert"):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = None if name == "small" else QWEN3
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"question": f"What is {n}?", "answer": "4"} for n in range(3)]
    path = recipe(task={"name": "questions", "eval": jsonl(tmp_path / "asked.jsonl", rows)})
    begun = "{system: Be brief., prefix: '<think>Hm'}"
    asked = [f"decode.bases.0.prompt={begun}", "expert.prompt={template: {enable_thinking: false}}"]
    asked += ["decode.thinking={max_tokens: 5}", "decode.bases.0.tuned_prompt=chat"]
    told = decode(path, *asked, "expert.antiexpert_prompt=chat")
    assert "'" + str(tmp_path / "small") + "' has no chat template" in told
    told = decode(path, *asked[1:], "decode.bases.0.prompt={template: {thinking: true}}")
    assert "'thinking' is no argument of the chat template" in told
    told = decode(path, *asked[:2], "decode.thinking={max_tokens: 500}")
    assert "or decode.thinking.max_tokens or leave the row out" in told
    marks = "start: '<think>', end: '</think>', max_tokens: 5"
    asked[2] = f"decode.thinking={{{marks}}}"
    assert decode(path, *asked[:3]) is None
    run = tmp_path / "run"
    by_system = {file.stem: read_rows(file) for file in (run / "predictions").glob("*.jsonl")}
    for name in ("base-large", "proxy-large-alpha1"):
        for row in by_system[name]:
            assert row["thinking_end"] in ("budget", "never") and row["num_thinking_tokens"] <= 5
            text = byte_tokenizer().decode(row["token_ids"])
            if row["thinking_end"] == "budget":
                assert "</think>" in text and "</think>" not in row["completion"]
    assert all("thinking" not in row for row in by_system["antiexpert"])
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["thinking"]) == {"base-large", "proxy-large-alpha1"}
    counts = metrics["thinking"]["base-large"]
    assert counts["num_rows"] == 3 == counts["num_cut"] + counts["num_unended"]
    assert "## Thinking" in (run / "report.md").read_text()
    settings = json.loads((run / "settings/predictions/base-large.json").read_text())
    assert settings["base_chat"] == {"system": "Be brief.", "prefix": "<think>Hm"}
    assert settings["thinking"] == {"start": "<think>", "end": "</think>", "max_tokens": 5}
    assert decode(path, *asked[1:2]) is not None  # other prompts do not go on in this folder
    # The analysis reads the thinking and the answer again, one after the other.
    assert decode(path, *asked[:3], entry="decode/analyze.py") is None
