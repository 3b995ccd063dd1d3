"""What clients send: OpenAI's completions, typed; `alpha`, `rule` and `by_role` more.

Every field of OpenAI's that would change the answer is honoured or refused; a field that nobody
knows is refused by name. Fields that change no answer (`user`, `metadata`, ...) are taken, and so
is null, whatever the field: it says what a field that is not there says.
"""

import difflib
import secrets
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from pydantic import Field, ValidationError

from ..engine.rule import Rule
from ..engine.sampling import Sampling
from .message import Message, Nothing, Strict, Text

MOST_CHOICES = 128
MOST_ALPHA = 100.0
SHOWN = 60  # characters of a wrong value

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
B = TypeVar("B", bound="Body")


class BadRequest(ValueError):
    """A request that cannot be right: one line, and which field it is about."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class AskedRule(Strict):
    """A rule as a request brings it; a field that is left out is as in the paper's formula."""

    plausible_to: Literal["expert", "base_or_expert"] | None = None
    plausible_share: float = Field(0.1, gt=0, le=1)
    warmup_tokens: int = Field(0, ge=0)
    half_life_tokens: float | None = Field(None, gt=0)
    sure_base: float | None = Field(None, gt=0, le=1)
    by_doubt: bool = False
    antiexpert: bool = True

    def rule(self) -> Rule:
        """The same, as the engine takes it."""
        return Rule(**self.model_dump())


class StreamOptions(Strict):
    """What a stream tells beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = False  # a padding of OpenAI's


class Body(Strict):
    """What both kinds of request have. None is the default, as if the field were not there."""

    usual_tokens: ClassVar[int] = 16  # OpenAI's

    model: str
    alpha: float | None = Field(None, ge=-MOST_ALPHA, le=MOST_ALPHA)
    """Scale of the shift, where the model is `proxy`; None is the run's."""
    rule: AskedRule | None = None
    """How the shift is applied there; {} is the paper's formula, None the run's rule."""
    temperature: float | None = Field(None, ge=0, le=2)
    """0 is greedy; None is 1."""
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    """0 and -1 are no limit, as vLLM's."""
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(None, ge=0)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    by_role: bool | None = None
    """With logprobs of `proxy`: those of base, expert and anti-expert as well."""

    # Not implemented: what changes nothing is taken, anything else refused.
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    ignore_eos: Literal[False] | None = None
    use_beam_search: Literal[False] | None = None
    skip_special_tokens: Literal[True] | None = None

    # These change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    request_id: str | None = None
    priority: int | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of a completion; None is `usual_tokens`, or fewer where they do not fit."""
        return self.max_tokens

    @property
    def num_choices(self) -> int:
        """Completions of each prompt."""
        return 1 if self.n is None else self.n

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> Sampling:
        """How tokens are chosen; a request without a seed gets one of its own."""
        seed = secrets.randbits(63) if self.seed is None else self.seed % (1 << 64)
        temperature = 1.0 if self.temperature is None else self.temperature
        return Sampling(
            temperature,
            self.top_k if self.top_k and self.top_k > 0 else None,
            1.0 if self.top_p is None else self.top_p,
            seed,
            self.min_p or 0.0,
            1.0 if self.repetition_penalty is None else self.repetition_penalty,
        )

    def check(self) -> None:
        """Raises BadRequest for fields that do not go together."""
        if self.temperature is not None and 0 < self.temperature < 0.01:
            raise BadRequest(
                f"temperature: found {self.temperature:g}; give 0 (greedy), or 0.01 to 2",
                "temperature",
            )
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options: only with stream", "stream_options")


class CompletionBody(Body):
    """The body of `/v1/completions`."""

    prompt: (
        Text | Ids | Annotated[list[Text] | list[Ids], Field(min_length=1, max_length=MOST_CHOICES)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        is_one = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return cast(Any, [self.prompt] if is_one else self.prompt)

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, self.num_choices):
            raise BadRequest(
                f"best_of: found {self.best_of}; it can only be n, {self.num_choices}", "best_of"
            )
        if self.limit == 0 and not self.echo:
            raise BadRequest("max_tokens: 0 is only for echo; give 1 or more", "max_tokens")
        if len(self.prompts) * self.num_choices > MOST_CHOICES:
            raise BadRequest(
                f"prompt: {len(self.prompts)} prompts, n {self.num_choices}: more than "
                f"{MOST_CHOICES} completions; send several requests",
                "prompt",
            )


class TextFormat(Strict):
    """The one response format there is."""

    type: Literal["text"]


class ChatBody(Body):
    """The body of `/v1/chat/completions`."""

    usual_tokens: ClassVar[int] = 512

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: TextFormat | None = None
    reasoning_effort: str | None = None
    """An argument of the templates that read it."""
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    # vLLM's
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    continue_final_message: bool | None = None
    """The completion goes on from the last message, an assistant's."""
    add_generation_prompt: bool | None = None
    thinking_token_budget: int | None = Field(None, ge=1)
    """Tokens of thinking at most, beside those of the answer; None is the run's budget."""

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def own_arguments(self) -> dict[str, Any]:
        """What `chat_template_kwargs` holds."""
        return self.chat_template_kwargs or {}

    @property
    def template_arguments(self) -> dict[str, Any]:
        """All arguments of the templates that the body brings."""
        effort = self.reasoning_effort
        return {**({} if effort is None else {"reasoning_effort": effort}), **self.own_arguments}

    @property
    def goes_on_from(self) -> str:
        """The text of the message that the completion goes on from."""
        return self.messages[-1].turn()["content"] if self.continue_final_message else ""

    def check(self) -> None:
        super().check()
        if self.max_tokens is not None and self.max_tokens != self.limit:
            raise BadRequest("max_tokens: give max_completion_tokens alone", "max_tokens")
        if self.limit == 0:
            raise BadRequest("max_tokens: found 0; give 1 or more", "max_tokens")
        if self.top_logprobs and not self.logprobs:
            raise BadRequest("top_logprobs: only with logprobs: true", "top_logprobs")
        goes_on, begins = bool(self.continue_final_message), self.add_generation_prompt
        if begins is not None and begins == goes_on:
            raise BadRequest(
                "add_generation_prompt: an answer begins with it, or else goes on by "
                "continue_final_message: true; leave it out",
                "add_generation_prompt",
            )
        if goes_on and self.messages[-1].role != "assistant":
            raise BadRequest(
                "continue_final_message: the last message must be an assistant's",
                "continue_final_message",
            )


def read_body(kind: type[B], data: bytes) -> B:
    """The body of a request.

    Raises:
        BadRequest: in one line which field is wrong, and what was found.
    """
    try:
        body = kind.model_validate_json(data)
    except ValidationError as error:
        raise _problem(kind, error) from None
    body.check()
    return body


def _problem(kind: type[Body], error: ValidationError) -> BadRequest:
    errors = error.errors(include_url=False)
    of_field = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    first = max(of_field, key=lambda one: len(one["loc"]))  # of a union: of what fits best
    place = [str(part) for part in first["loc"]]
    name = place[0] if place else None
    if first["type"] == "json_invalid":
        return BadRequest(f"the body is no JSON ({first['msg']})")
    if first["type"] == "extra_forbidden" and len(place) == 1:
        near = difflib.get_close_matches(place[0], kind.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return BadRequest(f"{place[0]:.{SHOWN}}: unknown field{hint}", name)
    if first["type"] == "missing":
        return BadRequest(f"{'.'.join(place)}: missing", name)
    where = ".".join(part for part in place if part.isidentifier() or part.isdigit())
    said = str(first["msg"])
    message = f"{where}: {said[:1].lower()}{said[1:]}, found {first['input']!r:.{SHOWN}}"
    return BadRequest(message if where else f"the body: {said}", name)
