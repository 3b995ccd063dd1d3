"""The chat in a row, from any of the shapes that people's files have.

    messages             [{"role": "user", "content": "..."}, ...], OpenAI's, with `tools` beside it
    conversations        [{"from": "human", "value": "..."}, ...], ShareGPT's
    instruction, output  Alpaca's, with or without `input`
    prompt, completion   texts, or lists of messages as TRL has them; the prompt is not learnt

Each may have a `system` text beside it. Content that is a list of texts is those texts, one after
the other. A turn of weight 0 (or `train: false`) is read and not learnt.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .rows import Row

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
PLAIN_ROLES = ("system", "user", "assistant")
MEDIA = ("audio", "audios", "image", "images", "video", "videos")
WEIGHTS = ("weight", "train", "training")  # of a turn: OpenAI's name, and axolotl's
REFUSED = {  # what cannot be learnt, and what to give in its place
    **dict.fromkeys(
        ("function_call", "functions"),
        "calls are read from tool_calls, what may be called from tools",
    ),
    "history": "give its turns as messages",
    **dict.fromkeys(MEDIA, "only text is read"),
}

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat, and which of its turns are learnt.

    Attributes:
        messages: each with `role` and `content`, a text, and what else it had.
        learnt: places in `messages` of the assistant's turns to learn; at least one.
        tools: what the assistant may call, as JSON schemas; None if nothing.
        field: where in the row the messages are.
    """

    messages: tuple[Message, ...]
    learnt: tuple[int, ...]
    tools: list[Any] | None
    field: str


def conversation(row: Row) -> Conversation:
    """The chat in a row.

    Raises:
        ValueError: it is none, holds more than text and tools, or nothing to learn; names file,
            line and field.
    """
    field = row.first("messages", "conversations", "instruction", "prompt")
    pairs = list(_messages(row, field))
    if row.fields.get("system"):
        if pairs and pairs[0][0]["role"] == "system":
            raise ValueError(f"{row.where}: field 'system' and a system message; leave one out")
        pairs.insert(0, ({"role": "system", "content": row.text("system")}, False))
    _refuse(row.fields, f"{row.where}: ")
    messages = tuple(message for message, _ in pairs)
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise ValueError(
            f"{row.where}: field '{field}' holds no assistant's turn after another; there is "
            "nothing to learn"
        )
    learnt = tuple(place for place, (_, is_learnt) in enumerate(pairs) if place and is_learnt)
    if not learnt:
        raise ValueError(
            f"{row.where}: field '{field}': every assistant's turn has weight 0; there is nothing "
            "to learn"
        )
    return Conversation(messages, learnt, _tools(row), field)


def alpaca(row: Row) -> tuple[str, str]:
    """The prompt of an Alpaca row, `input` below `instruction`, and the output."""
    prompt = row.text("instruction")
    if row.fields.get("input"):
        prompt = f"{prompt}\n\n{row.text('input')}"
    return prompt, row.text("output")


def _messages(row: Row, field: str) -> Iterator[tuple[Message, bool]]:
    """The messages, and whether each is learnt."""
    if field == "instruction":
        texts = alpaca(row)
    elif field == "prompt":
        texts = (row.fields["prompt"], row.fields[row.first("completion")])
    else:
        yield from _listed(row, field, row.fields[field])
        return
    last = None
    for name, value, role in zip((field, "completion"), texts, ("user", "assistant"), strict=True):
        turn = [{"role": role, "content": value}] if isinstance(value, str) else value
        turns = list(_listed(row, name, turn))
        if turns and last == turns[0][0]["role"] == "assistant":
            raise ValueError(
                f"{row.where}: field '{name}' begins with a turn of the assistant, and 'prompt' "
                "ends with one; make them one turn"
            )
        last = turns[-1][0]["role"] if turns else None
        yield from ((message, learnt and role == "assistant") for message, learnt in turns)


def _listed(row: Row, field: str, messages: Any) -> Iterator[tuple[Message, bool]]:
    keys = '"from", "value"' if field == "conversations" else '"role", "content"'
    problem = f"{row.where}: field '{field}' must be a list of {{{keys}}} of text"
    if not isinstance(messages, list):
        raise ValueError(problem)
    for number, given in enumerate(messages, start=1):
        if not isinstance(given, dict):
            raise ValueError(problem)
        where = f"{row.where}: field '{field}', message {number}: "
        # Parquet gives every message all fields that any has: a template would print "None".
        message = _without_none(given)
        is_named = "role" not in message  # as ShareGPT names them
        role, content = (message.pop("role", None), message.pop("content", None))
        if is_named:
            role = message.pop("from", None)
        if content is None:
            content = message.pop("value", None)
        calls = message.pop("tool_calls", None)
        if content is None and calls:
            content = ""
        if not isinstance(role, str) or not isinstance(content, str | list):
            raise ValueError(problem)
        role = ROLES.get(role, role)
        if is_named and role not in PLAIN_ROLES:
            raise ValueError(
                f"{where}from '{role}' is not known; give calls and results as OpenAI's messages do"
            )
        _refuse(message, where)
        weights = {key: message.pop(key, 1) for key in WEIGHTS}
        for key, weight in weights.items():
            if weight not in (0, 1):
                raise ValueError(f"{where}{key} must be 0 or 1, found {weight!r:.80}")
        is_learnt = role == "assistant" and all(weights.values())
        if calls:
            message["tool_calls"] = _calls(calls, where)
        content = content if isinstance(content, str) else _joined(content, where)
        yield {"role": role, "content": content, **message}, is_learnt


def _joined(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"{where}holds a part that is no text, {kind!r:.80}")
        texts.append(text)
    return "".join(texts)


def _calls(calls: Any, where: str) -> list[Any]:
    """Tool calls with their arguments as objects, as chat templates want them."""
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{where}tool_calls must be a list of objects, found {calls!r:.80}")
    found = []
    for call in calls:
        function = call.get("function", call)
        if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
            try:
                function = {**function, "arguments": json.loads(arguments or "{}")}
            except ValueError:
                raise ValueError(
                    f"{where}the arguments of a tool call are not JSON, found {arguments!r:.80}"
                ) from None
        found.append({**call, "function": function} if "function" in call else function)
    return found


def _tools(row: Row) -> list[Any] | None:
    tools = row.fields.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except ValueError:
            tools = "no JSON"
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        found = f"{row.fields['tools']!r:.80}"
        raise ValueError(f"{row.where}: field 'tools' must be a list of objects, found {found}")
    return _without_none(tools)


def _refuse(fields: dict[str, Any], where: str) -> None:
    for name, hint in REFUSED.items():
        if fields.get(name):
            raise ValueError(f"{where}'{name}' cannot be learnt; {hint}")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
