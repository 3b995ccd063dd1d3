"""One message of a chat, as clients send it, and how strictly all that they send is read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=1 << 22)]
Nothing = Annotated[list[Any], Field(max_length=0)]


class Strict(BaseModel):
    """Unknown fields are refused; null is as if the field were not there."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None}


class Part(Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: Text
    cache_control: Any = None
    prompt_cache_breakpoint: Any = None


class Message(Strict):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1)]
    name: Text | None = None
    """Who says it; its template shows it or not."""
    reasoning_content: Text | None = None
    """What an assistant thought before; its template shows it or not."""
    reasoning: Text | None = None
    """The same, as vLLM calls it."""
    type: Literal["text"] | None = None  # lm-eval's
    tool_calls: Nothing | None = None
    annotations: Nothing | None = None

    def turn(self) -> dict[str, str]:
        """The message as chat templates take it; `developer` is their `system`."""
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        turn = {"role": "system" if self.role == "developer" else self.role, "content": text}
        thinking = self.reasoning if self.reasoning_content is None else self.reasoning_content
        more = {"name": self.name, "reasoning_content": thinking}
        return turn | {key: said for key, said in more.items() if said is not None}
