"""The lineup: which models a run compares, and as which systems."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..backends.next_tokens import EndpointSource
from ..engine.request import Prompt, RolePrompt
from ..engine.rule import Alpha
from ..models.chat import RAW, PromptForm
from ..models.loaded import ExpertSource
from ..models.model_source import ModelSource
from .systems import Role, headline_alpha, system_name


@dataclass(frozen=True, slots=True)
class Contender:
    """A large model to be proxy-tuned, and its directly tuned self if there is one.

    Attributes:
        base: a model that is loaded, or one behind an endpoint.
        slug: the name its systems, files and W&B keys go by; the recipe decides it.
        tuned: its `untuned` is the base.
        prompt, tuned_prompt: how either reads a question.
        tuned_is_there: the tuned model exists already, so that it can be checked as well.
    """

    slug: str
    base: ModelSource | EndpointSource
    tuned: ModelSource | None
    prompt: PromptForm = RAW
    tuned_prompt: PromptForm = RAW
    tuned_is_there: bool = True

    def __post_init__(self) -> None:
        if self.tuned is not None:
            object.__setattr__(self, "tuned", replace(self.tuned, untuned=self.loaded_base))

    @property
    def is_loaded(self) -> bool:
        """Whether the base is loaded, and not behind an endpoint."""
        return isinstance(self.base, ModelSource)

    @property
    def loaded_base(self) -> ModelSource:
        """The base, where only one in memory will do. Raises ValueError if it never is."""
        if isinstance(self.base, ModelSource):
            return self.base
        raise ValueError(
            f"{self.base.key}: '{self.slug}' is behind an endpoint, and this needs a base that is "
            "loaded; name another one"
        )


@dataclass(frozen=True, slots=True)
class System:
    """One of the systems compared; `contender` and `alpha` are None where the role has none."""

    role: Role
    contender: Contender | None = None
    alpha: Alpha | None = None

    @property
    def name(self) -> str:
        """The system's name in files and keys."""
        slug = None if self.contender is None else self.contender.slug
        if self.alpha is None:
            return system_name(self.role, slug)
        return system_name(self.role, slug, self.alpha.value, self.alpha.rule.name)


@dataclass(frozen=True, slots=True)
class Lineup:
    """The models of a run, shared by all of its tasks, and how they are combined and run.

    Attributes:
        experts: the expert that the run is about; then finished ones that steer beside it. Their
            differences are added, each with its weight, before alpha scales all.
        alphas: the scales that every base is steered at, all by one rule.
        chosen: by base's slug, what validation rows chose for it.
        is_choosing: only the steered bases are compared.
        expert_prompt, antiexpert_prompt: how either reads a question.
        trained_template: the chat template that models trained in the run are given; None leaves
            them their own.
        expert_is_there: the expert exists already, so that it can be checked as well.
        batch_size, num_draft_tokens: they decide the speed, not the results.
        engine: what decodes; `engine_options` are vLLM's own.
    """

    experts: tuple[ExpertSource, ...]
    contenders: tuple[Contender, ...]
    alphas: tuple[Alpha, ...]
    chosen: Mapping[str, Alpha] = field(default_factory=dict)
    is_choosing: bool = False
    expert_prompt: PromptForm = RAW
    antiexpert_prompt: PromptForm = RAW
    trained_template: str | None = None
    expert_is_there: bool = False
    vocabulary: str = "identical"
    batch_size: int = 8
    num_draft_tokens: int | Literal["auto"] = "auto"
    device: str = "auto"
    engine: Literal["local", "vllm"] = "local"
    engine_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def expert(self) -> ModelSource:
        """The expert that the run is about."""
        return self.experts[0].expert

    @property
    def antiexpert(self) -> ModelSource:
        """What that expert was tuned from."""
        return self.experts[0].antiexpert

    def check_tokens(self, what: str) -> None:
        """Raises ValueError if something that reads tokens is asked of proxies that emit bytes."""
        if self.vocabulary == "bytes":
            raise ValueError(f"decode.vocabulary: bytes: {what}; set it to mapped")

    def tokenizer_of(self, base: ModelSource | EndpointSource) -> ModelSource:
        """The model whose tokenizer a base is read by: of an endpoint's base the anti-expert."""
        return self.antiexpert if isinstance(base, EndpointSource) else base

    def alone(self, system: System) -> ModelSource:
        """The one model of a system that is not steered."""
        contender = system.contender
        if contender is None:
            return self.expert if system.role == "expert" else self.antiexpert
        model = contender.loaded_base if system.role == "base" else contender.tuned
        assert model is not None
        return model

    @property
    def systems(self) -> list[System]:
        """All systems, in the order that loads each model once."""
        proxies = {
            contender.slug: [System("proxy", contender, a) for a in self.alphas_of(contender)]
            for contender in self.contenders
        }
        if self.is_choosing:
            return [system for own in proxies.values() for system in own]
        ordered = [System("antiexpert"), System("expert")]
        for contender in self.contenders:
            ordered += [System("base", contender), *proxies[contender.slug]]
        return ordered + [System("tuned", c) for c in self.contenders if c.tuned is not None]

    def alphas_of(self, contender: Contender) -> list[Alpha]:
        """The alphas and rules that a base is steered by: the listed ones, then the chosen one."""
        chosen = self.chosen.get(contender.slug)
        return [*self.alphas, *([] if chosen in (None, *self.alphas) else [chosen])]

    def headline(self, contender: Contender) -> Alpha:
        """The alpha and rule of a base's headline result; see `headline_alpha`."""
        if contender.slug in self.chosen:
            return self.chosen[contender.slug]
        value = headline_alpha([alpha.value for alpha in self.alphas])
        return next(alpha for alpha in self.alphas if alpha.value == value)

    def prompt(self, system: System, text: str) -> RolePrompt | Prompt:
        """A question's prompt as a system's models read it."""
        expert, antiexpert = self.expert_prompt.of(text), self.antiexpert_prompt.of(text)
        contender = system.contender
        if contender is None:
            return expert if system.role == "expert" else antiexpert
        if system.role == "proxy":
            return RolePrompt(contender.prompt.of(text), expert, antiexpert)
        return (contender.tuned_prompt if system.role == "tuned" else contender.prompt).of(text)
