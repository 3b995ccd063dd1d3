"""A base that is not loaded: an endpoint shows its likeliest next tokens (docs/endpoints.md)."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from .endpoints import Address, EndpointKeys
from .folders import slug

OWN_PARAMETERS = ("model", "messages", "prompt", "stream", "n", "logprobs", "top_logprobs")


class EndpointBase(EndpointKeys):
    """A large untuned model behind an OpenAI-compatible endpoint."""

    endpoint: Address
    """Its address, up to and with /v1."""
    model: str = Field(min_length=1)
    """As the server calls it."""
    top_logprobs: int = Field(ge=1)
    """How many of the likeliest next tokens it is asked to show; no other token is reachable."""
    max_requests: int | None = Field(default=None, ge=1)
    """The run stops before it pays for more, those on record included; null is no limit."""
    api: Literal["completions", "chat"] = "completions"
    """chat is for a model that tells log-probabilities only there."""
    prompt: Literal["text", "ids"] = "text"
    """ids sends token ids, to a completions endpoint whose model has the expert's vocabulary."""
    continue_with: dict[str, Any] | None = None
    """Of a chat endpoint that goes on from a last assistant's message: what a request with one
    sends beside it; null says that it does not, so that completions have one token."""
    parameters: dict[str, Any] | None = None
    """Sent with every request as they are; null is temperature 0 and max_tokens 1."""

    # What a base in memory may have besides: an endpoint's model has no directly tuned self here.
    tuned: ClassVar[None] = None
    tuned_prompt: ClassVar[Any] = "raw"
    tune_reference: ClassVar[bool] = False

    @property
    def slug(self) -> str:
        """The last part of the model's name, as systems and folders are called after it."""
        return slug(self.model)

    @model_validator(mode="after")
    def _fits_its_api(self) -> "EndpointBase":
        if self.api == "chat" and self.prompt == "ids":
            raise ValueError("prompt: a chat endpoint reads no token ids; leave prompt out")
        if self.api == "completions" and self.continue_with is not None:
            raise ValueError("continue_with has no effect: a completions endpoint goes on anyway")
        if self.key_env is not None and self.key_file is not None:
            raise ValueError("key_env and key_file both name a key; leave one out")
        for key in OWN_PARAMETERS:
            if key in (self.parameters or {}) or key in (self.continue_with or {}):
                raise ValueError(f"parameters must not hold '{key}'; it is set for each request")
        if "echo" in (self.parameters or {}):
            raise ValueError("parameters must not hold 'echo'; what follows the prompt is read")
        return self
