"""Training rows that belong to no task: chats, plain text, and prompts with their completions.

    messages            {"messages": [{"role": "user", "content": "..."}, ...]}
    text                {"text": "..."} or {"content": "..."}
    prompt_completion   {"prompt": "...", "completion": "..."}

A chat is written out by the model's own chat template. Every assistant turn becomes a training row:
what precedes it, up to where the model begins to answer, is the prompt, and the turn with the
template's end of it the completion. So the loss is on what the assistant says, whatever the
template, and a prompt is what the model is shown at decode time. A text is learnt as a whole.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..rows import Row
from ..task import TrainRow

Format = Literal["messages", "text", "prompt_completion"]
Message = Mapping[str, Any]
# (messages, whether the assistant is to answer) -> text, without what the tokenizer adds itself
Render = Callable[[Sequence[Message], bool], str]


def formatted(row: Row, format: Format, render: Render | None = None) -> Iterator[TrainRow]:
    """The training rows of one data row; `render` is needed for messages.

    Raises:
        ValueError: names file, line and field.
    """
    if format == "text":
        yield TrainRow("", row.text(row.first("text", "content")))
    elif format == "prompt_completion":
        yield TrainRow(row.text("prompt"), row.text("completion"))
    else:
        assert render is not None
        yield from _turns(row, render)


def _turns(row: Row, render: Render) -> Iterator[TrainRow]:
    messages = _messages(row)
    for index, message in enumerate(messages):
        if index == 0 or message["role"] != "assistant":
            continue
        try:
            prompt, whole = render(messages[:index], True), render(messages[: index + 1], False)
        except Exception as error:  # a template refuses in its own words: of roles, of their order
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{row.where}: field 'messages' does not fit the chat template ({reason})"
            ) from error
        # Some templates end an open prompt as they never write a closed one, with an empty thought
        # say: the answer is then looked for by its own words.
        start = len(prompt) if whole.startswith(prompt) else whole.rfind(message["content"].strip())
        if start < 0 or not whole[start:].strip():
            raise ValueError(
                f"{row.where}: field 'messages', message {index + 1}: the chat template leaves "
                "nothing of this turn to be learnt"
            )
        yield TrainRow(prompt, whole[start:])


def _messages(row: Row) -> list[dict[str, Any]]:
    messages = row.fields[row.first("messages")]
    is_chat = isinstance(messages, list) and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in messages
    )
    if not is_chat:
        raise ValueError(
            f'{row.where}: field \'messages\' must be a list of {{"role", "content"}} of text'
        )
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise ValueError(
            f"{row.where}: field 'messages' holds no assistant's turn after another; there is "
            "nothing to learn"
        )
    # Parquet gives every message all fields that any has: a template would print "None".
    return [{k: v for k, v in message.items() if v is not None} for message in messages]
