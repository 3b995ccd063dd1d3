"""The small model, and how it is trained into an expert."""

from typing import Any, Literal

from pydantic import Field, model_validator

from .folders import slug
from .prompts import AnyPrompt
from .section import Dtype, Section


class ProxyAware(Section):
    """The expert's loss is that of a base steered by it, not its own (docs/proxy_aware.md)."""

    base: str | None = Field(default=None, min_length=1)
    """Hub id or folder of the frozen base; null is the first of decode.bases."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype | None = None
    """Weights' type; null is the one they are stored in."""
    alpha: float = Field(default=1.0, gt=0)
    """Scale of the shift in the loss; decode with the same."""

    @model_validator(mode="after")
    def _of_a_base(self) -> "ProxyAware":
        if self.base is None and (self.revision is not None or self.dtype is not None):
            raise ValueError("revision and dtype are those of base; give base as well")
        return self


class Expert(Section):
    """The small model: untuned it is the anti-expert, trained it is the expert."""

    model: str = Field(min_length=1)
    """Hub id or folder of the small untuned model."""
    revision: str | None = None
    """Commit, tag or branch on the hub; null is the newest."""
    dtype: Dtype
    """Weights' type in training and decoding; auto is the one they are stored in."""
    adapter: dict[str, Any] | None = None
    """`peft.LoraConfig` keys; null is full fine-tuning."""
    start: str | None = Field(default=None, min_length=1)
    """Hub id or folder of a finished expert's whole weights, from which training starts; null is
    the small model."""
    proxy_aware: ProxyAware | None = None
    """Train it as the shift of a base; null is plain fine-tuning."""
    trained: str | None = None
    """Hub id or folder of a finished expert: none is trained then."""
    trained_revision: str | None = None
    """Its commit, tag or branch on the hub; null is the newest."""
    prompt: AnyPrompt = "raw"
    """The expert's prompt: raw, the task's own; chat, that in the chat template; or the chat's
    system, prefix and template."""
    antiexpert_prompt: AnyPrompt = "raw"
    """The prompt of the untuned small model, likewise."""
    trust_remote_code: bool = False
    """Run model code that comes with the weights."""

    @property
    def slug(self) -> str:
        """The last part of the finished expert's name, or of the small model's."""
        return slug(self.trained or self.model)

    @model_validator(mode="after")
    def _trained_or_to_be(self) -> "Expert":
        if self.trained is not None and self.adapter is not None:
            raise ValueError(
                f"found trained {self.trained!r} and an adapter to train; give one (a finished "
                "expert may be an adapter's folder)"
            )
        if self.start is not None and any((self.trained, self.adapter, self.proxy_aware)):
            raise ValueError(
                "start gives whole weights, which are tuned as such; leave out start, or trained, "
                "adapter and proxy_aware (an adapter would not fit the anti-expert, which is model)"
            )
        prompts = (self.prompt, self.antiexpert_prompt)
        if self.proxy_aware is not None and (self.trained is not None or prompts != ("raw", "raw")):
            raise ValueError(
                "proxy_aware is for an expert that is trained here and reads raw prompts, as bases "
                "do; leave out proxy_aware, or trained and prompt"
            )
        return self


class ProxyCheck(Section):
    """During training: how well the expert steers the first base so far, on rows set apart."""

    rows: str | None = None
    """Validation rows, as the evaluation rows are named; null holds out the last training rows."""
    num_rows: int = Field(default=16, ge=1)
    """How many of them: the first so many of `rows`, or the last so many training rows."""
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between checks; null is at most ten checks in a training, and fewer where they would
    take more than a tenth of its time. The last step is always checked."""
    alpha: float | None = None
    """Scale of the shift; null is the one of decode.alpha that is nearest to 1."""
    select_by: Literal["last", "loss", "proxy"] = "last"
    """Which weights become the expert: the last ones, or those of the check with the lowest loss or
    with the best proxy-tuned score (of equal scores, the one with the lower loss)."""
    patience: int | None = Field(default=None, ge=1)
    """Training ends after so many checks without a better one, by `select_by`; null is never."""

    @model_validator(mode="after")
    def _knows_what_is_better(self) -> "ProxyCheck":
        if self.patience is not None and self.select_by == "last":
            raise ValueError("patience needs select_by proxy or loss, which say what is better")
        return self
