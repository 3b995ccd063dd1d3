"""Chats, plain text and pairs as training rows: what is learnt, and that decoding asks the same."""

import json
from datetime import datetime

import pytest
from support.chat_templates import family_tokenizer
from support.models import byte_tokenizer
from tokenizers import pre_tokenizers, processors
from transformers import GemmaTokenizer, GPT2Tokenizer, LlamaTokenizer
from transformers.utils import chat_template_utils

from data import TASKS
from data.rows import Row
from data.task import TrainRow
from data.training.formats import formatted
from decode.engine.request import Chat
from decode.models import chat_date
from decode.models.prompts import encode
from train.rows.sources import chat_renderer
from train.rows.tokens import IGNORED, token_rows

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "6"},
]


def chat_tokenizer(adds_bos: bool):
    tokenizer = byte_tokenizer(("<bos>",))
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    if adds_bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def byte_vocab() -> dict[str, int]:
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u2581"]
    tokens = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", *letters])
    return {token: index for index, token in enumerate(tokens)}


def ends_every_text(tokenizer, single: str):
    """The tokenizer with `add_eos_token`, as some files of Llama and Mistral models have it."""
    tokens = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<eos>", "<bos>")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=tokens
    )
    return tokenizer


def messages(*turns):
    return Row({"messages": list(turns)}, "chats.jsonl, line 3")


@pytest.mark.parametrize("adds_bos", [True, False])
def test_every_assistant_turn_is_learnt_once_after_what_decoding_will_show(adds_bos):
    tokenizer = chat_tokenizer(adds_bos)
    rows = list(formatted(messages(*CHAT), "messages", chat_renderer(tokenizer)))
    assert [row.completion for row in rows] == ["4<eos>", "6<eos>"]
    for row, end in zip(rows, (2, 4), strict=True):
        (tokens,) = token_rows([row], tokenizer, "<eos>")
        ids, labels = tokens["input_ids"], tokens["labels"]
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids[0] == tokenizer.bos_token_id
        learnt = [label for label in labels if label != IGNORED]
        assert tokenizer.decode(learnt) == f"{CHAT[end]['content']}<eos>"
        whole = tokenizer.apply_chat_template(CHAT[: end + 1], tokenize=True, return_dict=False)
        assert ids == whole[:-1]  # which has the template's newline after the end of the turn
    (row,) = formatted(messages(*CHAT[1:3]), "messages", chat_renderer(tokenizer))
    asked = encode(tokenizer, Chat("2+2?"))
    assert next(token_rows([row], tokenizer, "<eos>"))["input_ids"][: len(asked)] == asked


def test_a_template_that_closes_the_prompt_otherwise_still_gives_the_answer():
    tokenizer = chat_tokenizer(False)
    tokenizer.chat_template = TEMPLATE.replace("%}<assistant>{%", "%}<assistant><think></think>{%")
    (row,) = formatted(messages(*CHAT[1:3]), "messages", chat_renderer(tokenizer))
    assert row == TrainRow("<bos><user>2+2?\n<assistant><think></think>", "4<eos>")


def test_text_and_pairs_are_taken_as_they_are():
    (text,) = formatted(Row({"content": "def f(): ..."}, "x"), "text")
    assert text == TrainRow("", "def f(): ...")
    (pair,) = formatted(Row({"prompt": "a", "completion": "b"}, "x"), "prompt_completion")
    assert pair == TrainRow("a", "b")
    (tokens,) = token_rows([text], byte_tokenizer(), "<eos>")
    assert tokens["labels"] == tokens["input_ids"]
    assert tokens["labels"][-1] == 256


@pytest.mark.parametrize(
    ("row", "format", "problem"),
    [
        ({"messages": "hello"}, "messages", "field 'messages' must be a list of"),
        ({"messages": [{"role": "user"}]}, "messages", "field 'messages' must be a list of"),
        ({"messages": CHAT[:2]}, "messages", "field 'messages' holds no assistant's turn"),
        ({"chat": []}, "messages", "field 'messages' is missing"),
        ({"code": "x"}, "text", "field 'text' is missing, and so is any other name for it"),
        ({"prompt": "x"}, "prompt_completion", "field 'completion' is missing"),
        (
            {"prompt": "x", "completion": "y", "system": "Be brief."},
            "prompt_completion",
            "field 'system' is for messages",
        ),
        (
            {"prompt": "x", "completion": '[{"from": "gpt", "value": "y"}]'},
            "prompt_completion",
            "field 'completion' holds messages that were written as text",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(row, format, problem):
    render = chat_renderer(chat_tokenizer(False))
    with pytest.raises(ValueError, match=r"chats\.jsonl, line 3: ") as error:
        list(formatted(Row(row, "chats.jsonl, line 3"), format, render))
    assert problem in str(error.value)


def test_a_template_that_refuses_a_chat_is_one_line():
    tokenizer = chat_tokenizer(False)
    tokenizer.chat_template = "{{ raise_exception('roles must\nalternate') }}"
    with pytest.raises(ValueError, match="line 3: field 'messages' does not fit the chat template"):
        list(formatted(messages(*CHAT), "messages", chat_renderer(tokenizer)))


@pytest.mark.parametrize("bos", [False, True])
def test_add_eos_token_ends_no_prompt_and_every_row_once(bos):
    vocab = byte_vocab()
    for tokenizer in (
        LlamaTokenizer(vocab, [], add_bos_token=bos, add_eos_token=True),
        GPT2Tokenizer(vocab, [], eos_token="</s>", add_bos_token=bos, add_eos_token=True),
        GemmaTokenizer(vocab, [], eos_token="</s>", add_bos_token=bos, add_eos_token=True),
    ):
        eos = tokenizer.eos_token_id
        assert tokenizer("ab")["input_ids"][-1] == eos  # it does end every text
        start = [tokenizer.bos_token_id] if bos else []
        plain = tokenizer("ab", add_special_tokens=False)["input_ids"]
        assert encode(tokenizer, "ab") == start + plain
        assert encode(tokenizer, "ab</s>") == [*start, *plain, eos]  # asked for, so kept
        for completion in ("cd", "cd</s>"):
            (row,) = token_rows([TrainRow("ab", completion)], tokenizer, "</s>")
            ids, labels = row["input_ids"], row["labels"]
            assert ids[: len(start)] == start and ids.count(eos) == 1 and ids[-1] == eos
            assert labels[: len(start + plain)] == [IGNORED] * len(start + plain)
            assert tokenizer.decode(labels[len(start + plain) :]) == "cd</s>"
        (row,) = token_rows([TrainRow("", "cd")], tokenizer, "</s>")
        assert row["input_ids"].count(eos) == 1 and row["input_ids"][-1] == eos


@pytest.mark.parametrize("single", ["<bos> $A <eos>", "$A <eos>", "<bos> $A <bos> <eos>"])
def test_chats_of_a_tokenizer_that_ends_every_text(single):
    tokenizer = ends_every_text(chat_tokenizer(False), single)
    (row,) = formatted(messages(*CHAT[1:3]), "messages", chat_renderer(tokenizer))
    (tokens,) = token_rows([row], tokenizer, "<eos>")
    assert tokens["input_ids"].count(tokenizer.eos_token_id) == 1
    assert tokens["input_ids"].count(tokenizer.bos_token_id) == 1
    asked = encode(tokenizer, Chat("2+2?"))
    assert tokens["input_ids"][: len(asked)] == asked


def test_a_first_token_that_is_also_the_end_is_no_end():
    """GPT-2's one special token put after every text, but not before it."""
    tokenizer = chat_tokenizer(False)
    tokenizer.bos_token = "<eos>"
    tokenizer = ends_every_text(tokenizer, "$A <eos>")
    (row,) = formatted(messages(*CHAT[1:3]), "messages", chat_renderer(tokenizer))
    assert row.prompt.startswith("<eos>")  # as the template writes it


DATED = (
    "\n  {% if strftime_now is defined %}{% set day = strftime_now(form) %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ day }}|{{ m.content }}{% endfor %}"
)


@pytest.fixture
def on_day(monkeypatch):
    """Makes it another day: for our templates and for transformers' own `strftime_now`."""

    def set_day(text: str) -> None:
        class Day(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromisoformat(text)

        monkeypatch.setattr(chat_date, "datetime", Day)
        monkeypatch.setattr(chat_template_utils, "datetime", Day)

    yield set_day
    chat_date.keep_date(None)


@pytest.mark.parametrize("form", ["%d %b %Y", "%A, %-d %B %Y", "%Y-%m-%d %H:%M", "%e %F", "none"])
def test_a_template_is_told_the_date_as_transformers_tells_it(on_day, form):
    on_day("2026-03-04T05:06:07")
    tokenizer = chat_tokenizer(False)
    tokenizer.chat_template = DATED.replace("form", repr(form))
    turn = [{"role": "user", "content": "2+2?"}]
    expected = tokenizer.apply_chat_template(turn, tokenize=True, return_dict=False)
    assert encode(tokenizer, Chat("2+2?")) == expected


def test_a_run_that_goes_on_the_next_day_reads_the_same_texts(on_day, tmp_path):
    tokenizer = chat_tokenizer(False)
    tokenizer.chat_template = DATED.replace("form", "'%d %b %Y'")

    def texts(folder, day):
        on_day(f"{day}T23:59:59")
        chat_date.keep_date(folder / "chat_date.txt")
        rows = formatted(messages(*CHAT[1:3]), "messages", chat_renderer(tokenizer))
        return [*rows, encode(tokenizer, Chat("2+2?"))]

    first = texts(tmp_path / "run", "2026-11-26")
    assert "26 Nov 2026" in first[0].prompt
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["chat_date.txt"]
    assert texts(tmp_path / "run", "2026-11-27") == first
    (tmp_path / "run").rename(tmp_path / "moved")
    assert texts(tmp_path / "moved", "2026-11-28") == first
    assert "28 Nov 2026" in texts(tmp_path / "another", "2026-11-28")[0].prompt
    (tmp_path / "moved" / "chat_date.txt").write_text("yesterday")
    with pytest.raises(ValueError, match=r"chat_date\.txt: expected the date"):
        texts(tmp_path / "moved", "2026-11-28")


def test_rows_are_written_with_the_arguments_that_the_expert_is_asked_with():
    tokenizer = family_tokenizer("qwen3")
    asked = {"enable_thinking": False}
    render = chat_renderer(tokenizer, "<eos>", asked)
    (row,) = formatted(messages(*CHAT[1:3]), "messages", render)
    assert row.prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert row.completion == "4<|im_end|>\n"
    assert encode(tokenizer, Chat("2+2?", arguments=asked)) == encode(tokenizer, row.prompt)


def test_a_template_without_a_date_leaves_no_file(tmp_path):
    chat_date.keep_date(tmp_path / "run" / "chat_date.txt")
    encode(chat_tokenizer(False), Chat("2+2?"))
    chat_date.keep_date(None)
    assert not (tmp_path / "run").exists()


TOOLS_TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
CALLING = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "a", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


def learnt(fields, template=TEMPLATE):
    tokenizer = chat_tokenizer(False)
    tokenizer.chat_template = template
    row = Row(fields, "chats.jsonl, line 3")
    return list(formatted(row, "messages", chat_renderer(tokenizer)))


@pytest.mark.parametrize(
    "fields",
    [
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "2+2?"},
                {"from": "gpt", "value": "4"},
                {"from": "human", "value": "And 3+3?"},
                {"from": "gpt", "value": "6"},
            ]
        },
        {"conversations": CHAT[1:], "system": "Be brief."},
        {"messages": [{"role": m["role"], "value": None, **m} for m in CHAT], "tools": None},
        {"messages": CHAT, "prompt": "2+2?", "tools": [], "system": ""},
        {"messages": [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT]},
        {"messages": [{**m, "content": [m["content"][:1], m["content"][1:]]} for m in CHAT]},
        {"messages": [{**m, "tool_calls": None, "weight": None} for m in CHAT]},
        {"messages": [{**m, "weight": 1} if m["role"] == "assistant" else m for m in CHAT]},
    ],
)
def test_a_chat_of_any_shape_is_the_same_chat(fields):
    assert learnt(fields) == learnt({"messages": CHAT})


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "Add.", "input": "2 3", "output": "5"},
        {"instruction": "Add.\n\n2 3", "input": "", "output": "5"},
        {"instruction": "Add.\n\n2 3", "input": None, "output": "5"},
        {"prompt": "Add.\n\n2 3", "completion": "5"},
        {
            "prompt": [{"role": "user", "content": "Add.\n\n2 3"}],
            "completion": [{"role": "assistant", "content": "5"}],
        },
    ],
)
def test_instructions_and_pairs_are_chats_of_two_turns(fields):
    turns = [{"role": "user", "content": "Add.\n\n2 3"}, {"role": "assistant", "content": "5"}]
    assert learnt(fields) == learnt({"messages": turns})


@pytest.mark.parametrize("mark", [("weight", 0), ("train", False), ("training", 0)])
def test_turns_of_weight_0_and_of_a_prompt_are_read_and_not_learnt(mark):
    key, value = mark
    silent = [{**m, key: value} if m["content"] == "4" else m for m in CHAT]
    assert learnt({"messages": silent}) == learnt({"messages": CHAT})[1:]
    assert learnt({"prompt": CHAT[:4], "completion": CHAT[4:]}) == learnt({"messages": CHAT})[1:]
    row = Row({"messages": silent}, "x")
    assert TASKS["instruct"].to_train(row).completion == "\n\n6"


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL])])
def test_tools_and_their_calls_are_written_by_the_template(tools):
    call, answer = learnt({"messages": CALLING, "tools": tools}, TOOLS_TEMPLATE)
    assert call.prompt.startswith('<tools>[{"type": "function"')
    assert call.completion == '<call>add {"x": 1}<eos>'
    assert answer.prompt.endswith('<call>add {"x": 1}<eos><tool>2<assistant>')
    assert answer.completion == "It is 2.<eos>"
    # Parquet gives every object the fields of all.
    padded = [{**CALL, "function": {**CALL["function"], "description": None}}]
    rows = [CALLING[0], {**CALLING[1], "tool_calls": padded}, *CALLING[2:]]
    again = learnt({"messages": rows, "tools": [{**TOOL, "strict": None}]}, TOOLS_TEMPLATE)
    assert again == [call, answer]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"messages": CHAT, "tools": [TOOL]}, "field 'tools': the chat template does not write"),
        ({"messages": CHAT, "tools": "add"}, "field 'tools' must be a list of objects"),
        (
            {"messages": CALLING},
            "field 'messages', message 2: the chat template does not write too",
        ),
        ({"messages": [{**m, "weight": 0} for m in CHAT]}, "every assistant's turn has weight 0"),
        ({"messages": [{**m, "weight": 0.5} for m in CHAT]}, "message 1: weight must be 0 or 1"),
        ({"messages": CHAT, "functions": [{"name": "add"}]}, "'functions' cannot be learnt"),
        ({"messages": CHAT, "images": ["a.png"]}, "'images' cannot be learnt; only text is read"),
        (
            {"instruction": "q", "output": "a", "history": [["b", "c"]]},
            "'history' cannot be learnt; give its turns as messages",
        ),
        (
            {"messages": [CHAT[1], {**CHAT[2], "reasoning_content": "Two and two."}]},
            "message 2: the chat template does not write reasoning_content",
        ),
        (
            {"prompt": CHAT[1:3], "completion": CHAT[2:3]},
            "field 'completion' begins with a turn of the assistant, and 'prompt' ends with one",
        ),
        ({"messages": CHAT, "system": "Be long."}, "field 'system' and a system message"),
        (
            {"messages": [CHAT[1], {"role": "assistant", "function_call": {"name": "add"}}]},
            "field 'messages' must be a list of",
        ),
        (
            {"messages": [CHAT[1], {**CHAT[2], "function_call": {"name": "add"}}]},
            "field 'messages', message 2: 'function_call' cannot be learnt",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, CHAT[2]]},
            "field 'messages', message 1: holds a part that is no text, 'image_url'",
        ),
        (
            {"messages": [{**CALLING[1], "tool_calls": [{"function": {"arguments": "{"}}]}]},
            "message 1: the arguments of a tool call are not JSON, found '{'",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "observation", "value": ""},
                ]
            },
            "field 'conversations', message 2: from 'observation' is not known",
        ),
        ({"conversations": ["q", "a"]}, "field 'conversations' must be a list of"),
        ({"conversations": [{"from": "gpt", "value": 3}]}, "field 'conversations' must be a list"),
        ({"prompt": "q"}, "field 'completion' is missing"),
        ({"prompt": "q", "completion": 3}, "field 'completion' must be a list of"),
        ({"instruction": "q"}, "field 'output' is missing"),
    ],
)
def test_what_a_chat_holds_beside_text_is_written_or_refused(fields, problem):
    with pytest.raises(ValueError, match=r"^chats\.jsonl, line 3: ") as error:
        learnt(fields)
    assert problem in str(error.value)


def test_a_message_that_the_template_passes_over_is_refused():
    template = (
        "{% for m in messages %}{% if m.role != 'developer' %}<{{ m.role }}>{{ m.content }}<eos>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    turns = [{"role": "developer", "content": "Be brief."}, *CHAT[1:3]]
    assert learnt({"messages": turns})
    with pytest.raises(ValueError, match="message 1: the chat template does not write messages of"):
        learnt({"messages": turns}, template)
    turns[0] = {"role": "system", "content": "Be brief."}
    assert learnt({"messages": turns}, template)[0].prompt.startswith("<system>Be brief.")
    with pytest.raises(
        ValueError, match=r"line 3: field 'messages', message 1: .*leaves the system"
    ):
        learnt({"messages": turns}, template.replace("developer", "system"))


@pytest.mark.parametrize("fields", [{"messages": CALLING}, {"messages": CHAT, "tools": [TOOL]}])
def test_instructions_without_a_template_take_no_tools(fields):
    with pytest.raises(ValueError, match="x, line 1: tools are written by a chat template"):
        TASKS["instruct"].to_train(Row(fields, "x, line 1"))


def test_instructions_are_read_alike_for_training_and_evaluation():
    row = Row({"instruction": "Add.", "input": "2 3", "output": "5", "id": 1}, "x, line 1")
    instruct = TASKS["instruct"]
    assert instruct.eval_row(row).prompt == instruct.to_train(row).prompt == "Add.\n\n2 3"
    chat = Row(
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "x"
    )
    for task in ("instruct", "humaneval"):
        assert TASKS[task].to_train(chat) == TrainRow("q", "\n\na")
