"""Preferences: rows of a prompt, the answer that is preferred to it, and one that is not.

    texts      {"prompt": "...", "chosen": "...", "rejected": "..."}
    messages   the same with lists of {"role", "content"}, the prompt a text or such a list
    chats      {"chosen": [...], "rejected": [...]}, whole chats that differ in their last turn

Texts are learnt as they are. Messages and chats are written out by the model's chat template, as
`formats.py` does it. A row becomes two training rows, the chosen one first.
"""

from collections.abc import Callable
from typing import Any

from ..chats import REFUSED, ROLES, WEIGHTS
from ..rows import Row
from ..task import TrainRow
from .formats import Render, formatted, plain_text

ANSWERS = ("chosen", "rejected")


def preference(row: Row, renderer: Callable[[], Render]) -> tuple[TrainRow, TrainRow]:
    """The prompt with the chosen answer, and with the rejected one.

    Args:
        renderer: asked for the chat template where a row has messages.

    Raises:
        ValueError: names file, line and field.
    """
    lists = [name for name in ANSWERS if isinstance(row.fields.get(name), list)]
    if len(lists) == 1:
        other = ANSWERS[lists == ["chosen"]]
        row.first(other)
        raise ValueError(f"{row.where}: field '{lists[0]}' holds messages, and '{other}' does not")
    chosen, rejected = (
        _from_messages(row, name, renderer()) if lists else _from_text(row, name)
        for name in ANSWERS
    )
    if not chosen.prompt:
        raise ValueError(f"{row.where}: field 'prompt' must not be empty")
    if not lists and all(row.fields[name].startswith(chosen.prompt) for name in ANSWERS):
        raise ValueError(
            f"{row.where}: fields 'chosen' and 'rejected' begin with the text of 'prompt', which "
            "would be read twice; leave it out of them"
        )
    if chosen.prompt != rejected.prompt:
        raise ValueError(f"{row.where}: fields 'chosen' and 'rejected' begin with other prompts")
    if chosen.completion == rejected.completion:
        raise ValueError(
            f"{row.where}: fields 'chosen' and 'rejected' are the same, so neither is preferred; "
            "leave the row out"
        )
    return chosen, rejected


def _from_text(row: Row, name: str) -> TrainRow:
    return TrainRow(plain_text(row, "prompt"), plain_text(row, name))


def _from_messages(row: Row, name: str, render: Render) -> TrainRow:
    """The last turn of the messages in a field, after all that precedes it."""
    messages = row.fields[name]
    beside: dict[str, Any] = {
        key: row.fields[key] for key in ("system", "tools", *REFUSED) if key in row.fields
    }
    if not messages or _role(messages[-1]) != "assistant":
        raise ValueError(f"{row.where}: field '{name}' must end with a turn of the assistant")
    if any(messages[-1].get(key) == 0 for key in WEIGHTS):
        raise ValueError(
            f"{row.where}: field '{name}' ends with a turn of weight 0; leave that out"
        )
    is_answer = _role(messages[0]) == "assistant"
    if is_answer:
        row.first("prompt")
        chat = beside | {"prompt": row.fields["prompt"], "completion": messages}
    else:
        chat = beside | {"messages": messages}
    field = "completion" if is_answer else "messages"
    try:
        *_, last = formatted(Row(chat, row.where), "messages", render)
    except ValueError as error:
        raise ValueError(str(error).replace(f"field '{field}'", f"field '{name}'")) from None
    return last


def _role(message: Any) -> Any:
    role = message.get("role", message.get("from")) if isinstance(message, dict) else None
    return ROLES.get(role, role) if isinstance(role, str) else None
