"""Training rows that belong to no task: chats, plain text, and prompts with their completions.

    messages            a chat in any of the shapes that `data/chats.py` reads
    text                {"text": "..."} or {"content": "..."}
    prompt_completion   {"prompt": "...", "completion": "..."}

A chat is written out by the model's own chat template. Every assistant turn becomes a training row:
what precedes it, up to where the model begins to answer, is the prompt, and the turn with the
template's end of it the completion. So the loss is on what the assistant says, whatever the
template, and a prompt is what the model is shown at decode time. What a template leaves out of the
text, the system's message, tools, a call of one or a thought before an answer, is refused. A text
is learnt as a whole.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..chats import PLAIN_ROLES, Conversation, conversation
from ..rows import Row
from ..task import TrainRow

Format = Literal["messages", "text", "prompt_completion"]
Message = Mapping[str, Any]
# (messages, whether the assistant is to answer, tools) -> text, without what the tokenizer adds
Render = Callable[[Sequence[Message], bool, list[Any] | None], str]

# As a table has a list of messages that was saved to it: JSON, or Python's own writing.
WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(["'])(role|content|from|value)\1\s*:""")
# What a turn may hold of the thoughts before its content, by any library's name for it.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def formatted(row: Row, format: Format, render: Render | None = None) -> Iterator[TrainRow]:
    """The training rows of one data row; `render` is needed for messages.

    Raises:
        ValueError: names file, line and field.
    """
    if format == "text":
        yield TrainRow("", row.text(row.first("text", "content")))
    elif format == "prompt_completion":
        yield TrainRow(plain_text(row, "prompt"), plain_text(row, "completion"))
    else:
        assert render is not None
        yield from _turns(row, render)


def plain_text(row: Row, field: str) -> str:
    """The text in a field that is learnt as it stands, without a chat template.

    Raises:
        ValueError: it is none, is a list of messages written as text, or a `system` text stands
            beside it, which only a template could write.
    """
    text = row.text(field)
    if WRITTEN_MESSAGES.match(text):
        raise ValueError(
            f"{row.where}: field '{field}' holds messages that were written as text, {text!r:.60}; "
            "give them as a list, in JSON or Parquet"
        )
    if row.fields.get("system"):
        raise ValueError(
            f"{row.where}: field 'system' is for messages, and '{field}' is text, which is learnt "
            "as it stands; write it into 'prompt', or give messages"
        )
    return text


def _turns(row: Row, render: Render) -> Iterator[TrainRow]:
    chat = conversation(row)

    def written(
        messages: Sequence[Message], is_open: bool = False, tools: list[Any] | None = chat.tools
    ) -> str:
        try:
            return render(messages, is_open, tools)
        except Exception as error:  # a template refuses in its own words: of roles, of their order
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{row.where}: field '{chat.field}' does not fit the chat template ({reason})"
            ) from error

    _check_nothing_is_left_out(row, chat, written)
    for index in chat.learnt:
        message = chat.messages[index]
        prompt, whole = written(chat.messages[:index], True), written(chat.messages[: index + 1])
        _check_system_is_written(row, chat, index, prompt, written)
        # Some templates end an open prompt as they never write a closed one, with an empty thought
        # say: the answer is then looked for by its own words.
        start = len(prompt) if whole.startswith(prompt) else whole.rfind(message["content"].strip())
        if start < 0 or not whole[start:].strip():
            raise ValueError(
                f"{row.where}: field '{chat.field}', message {index + 1}: the chat template leaves "
                "nothing of this turn to be learnt"
            )
        yield TrainRow(prompt, whole[start:])


def _check_system_is_written(
    row: Row, chat: Conversation, index: int, prompt: str, written: Callable[..., str]
) -> None:
    """Refuse a system's message that is the same to the template as any other."""
    first, *others = chat.messages[:index]
    if first["role"] != "system" or first["content"].strip() in prompt:
        return
    other = {**first, "content": f"{first['content']}."}
    if written([other, *others], True) == prompt:
        raise ValueError(
            f"{row.where}: field '{chat.field}', message 1: the chat template leaves the system's "
            "message out; leave it out of the row"
        )


def _check_nothing_is_left_out(row: Row, chat: Conversation, written: Callable[..., str]) -> None:
    """Refuse tools, calls and messages of other roles that the template does not write."""
    given = chat.messages
    if chat.tools is not None and written(given) == written(given, tools=None):
        raise ValueError(f"{row.where}: field 'tools': the chat template does not write tools")
    for index, message in enumerate(given):
        apart = [key for key in ("tool_calls", *THOUGHTS) if message.get(key)]
        if index not in chat.learnt:  # templates leave out earlier thoughts
            apart = [key for key in apart if key not in THOUGHTS]
        if apart:
            what = apart[0]
            other = {key: value for key, value in message.items() if key != what}
        elif message["role"] not in PLAIN_ROLES:
            what = f"messages of the role '{message['role']}'"
            other = {**message, "content": f"{message['content']}."}
        else:
            continue
        whole = written(given[: index + 1])
        try:
            is_left_out = written([*given[:index], other]) == whole
        except ValueError:
            continue  # the template looks at what is missing here
        if is_left_out:
            raise ValueError(
                f"{row.where}: field '{chat.field}', message {index + 1}: the chat template does "
                f"not write {what}"
            )
