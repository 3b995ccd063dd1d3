"""A large model steered by a small expert: three models that decode as one.

from decode import ProxyTuned

model = ProxyTuned.from_pretrained(
    "meta-llama/Llama-2-13b-hf",
    expert="runs/gsm7b/expert",
    antiexpert="meta-llama/Llama-2-7b-hf",
)
completions = model.generate(["Name a prime number above 20."], max_new_tokens=32)
print(completions[0].text)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..engine.request import Chat, Completion, Request, RolePrompt
from ..engine.rule import Alpha
from ..engine.sampling import Sampling
from ..engine.stats import DecodingStats
from ..models.adapters import adapter_base, is_adapter
from ..models.loaded import ExpertSource, LoadedModels
from ..models.model_source import ModelSource
from ..models.prompts import RoleTokenizers
from ..models.quantization import settings_text
from ..models.steered import Steered
from .byte_completer import local_completer
from .local import LocalCompleter
from .thinker import complete_with_thinking
from .thinking import Thinking


@dataclass(frozen=True, slots=True)
class WeightedExpert:
    """A further expert, whose difference from its anti-expert counts `weight` times the first's.

    Attributes:
        antiexpert: may be left out where the expert is an adapter.
    """

    expert: str | ModelSource
    weight: float
    antiexpert: str | ModelSource | None = None


class ProxyTuned:
    """A proxy-tuned model with its tokenizers: text in, text out."""

    def __init__(self, steered: Steered, tokenizers: RoleTokenizers) -> None:
        self.steered = steered
        self.tokenizers = tokenizers

    @classmethod
    def from_pretrained(
        cls,
        base: str | ModelSource,
        expert: str | ModelSource,
        antiexpert: str | ModelSource | None = None,
        alpha: float | Alpha = 1.0,
        device: str = "auto",
        vocabulary: str = "identical",
        more_experts: Sequence[WeightedExpert] = (),
        quantization: Mapping[str, Any] | None = None,
    ) -> "ProxyTuned":
        """The three models, by name or folder; vocabularies are compared before weights load.

        Args:
            base: the large untuned model.
            expert: the small tuned model, whole or as a LoRA adapter.
            antiexpert: the small untuned model; an adapter names its own, so it may be left out. If
                what it names is not in reach, the adapter is put on the one that is given.
            alpha: scale of the shift; 0 is the base exactly. `Alpha` brings a rule as well.
            device: "auto" takes a GPU if there is one, or spreads over several.
            vocabulary: "identical"; "shared" to combine only the ids all models share; "mapped",
                "matched" or "bytes" for an expert with another tokenizer (docs/decoding.md).
            more_experts: the shift is alpha times the sum of weighted differences.
            quantization: of the base, by transformers' keys, quant_method among them.

        Raises:
            ValueError: a model is missing, has another vocabulary, or cannot be quantised so.
        """
        weighted = [WeightedExpert(expert, 1.0, antiexpert), *more_experts]
        experts = [expert_source(one) for one in weighted]
        large = _source(base)
        if quantization is not None:
            large = replace(large, quantization=settings_text(quantization, "quantization"))
        return cls(*LoadedModels(device).steered(large, experts, vocabulary, alpha))

    def generate(
        self,
        prompts: Sequence[str | Chat | RolePrompt],
        max_new_tokens: int | Sequence[int],
        *,
        alpha: float | Alpha | Sequence[float | Alpha] | None = None,
        expert_prompts: Sequence[str | Chat] | None = None,
        chat_expert: bool = False,
        thinking: Thinking | None = None,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        banned_ids: Collection[int] = (),
        num_draft_tokens: int | Literal["auto"] = "auto",
        stats: DecodingStats | None = None,
    ) -> list[Completion]:
        """Completions of `prompts`, in their order; each is named by its place.

        Args:
            prompts: texts; or chats, which each role reads in its own chat template; or what
                each role reads.
            max_new_tokens: of every completion, or one number a prompt.
            alpha: instead of the model's own; one, or one a prompt; a number keeps the
                model's rule.
            expert_prompts: what the expert reads instead, one a prompt.
            chat_expert: the expert reads each prompt as a user's turn in its chat template.
            thinking: tells it from the answer; completions that think are a `Thought`, whose text
                is the answer.
            stop: strings that end a completion and are cut from its text.
            temperature, top_k, top_p, min_p, repetition_penalty: see `Sampling`. For settings that
                differ from prompt to prompt, give `complete` requests of their own.
            seed: fixes the draws; row i of a call gets the same tokens at any batch size.
            banned_ids: tokens that are never chosen.
            num_draft_tokens: tokens the expert drafts a round; "auto" is the fastest measured. The
                completions do not depend on it.
            stats: counts and timings are added to it.

        Raises:
            ValueError: a prompt cannot be encoded, or says twice what the expert reads.
        """
        if isinstance(max_new_tokens, int):
            max_new_tokens = [max_new_tokens] * len(prompts)
        if alpha is None or isinstance(alpha, float | int | Alpha):
            alpha = [self.steered.alpha if alpha is None else alpha] * len(prompts)
        each = zip(prompts, expert_prompts or prompts, max_new_tokens, alpha, strict=True)
        sampling = Sampling(temperature, top_k, top_p, seed, min_p, repetition_penalty)
        requests = [
            Request(
                number,
                _by_role(prompt, theirs, chat_expert),
                limit,
                tuple(stop),
                sampling,
                own if isinstance(own, Alpha) else replace(self.steered.alpha, value=own),
                tuple(sorted(banned_ids)),
            )
            for number, (prompt, theirs, limit, own) in enumerate(each)
        ]
        completer = self.completer(batch_size, num_draft_tokens, stats)
        completions = complete_with_thinking(completer, requests, thinking)
        found = {completion.name: completion for completion in completions}
        return [found[number] for number in range(len(requests))]

    def completer(
        self,
        batch_size: int = 8,
        num_draft_tokens: int | Literal["auto"] = "auto",
        stats: DecodingStats | None = None,
    ) -> LocalCompleter:
        """A completer of requests, each with prompts, alpha, stops and sampling of its own."""
        return local_completer(self.steered, self.tokenizers, batch_size, num_draft_tokens, stats)


def _by_role(
    prompt: str | Chat | RolePrompt, theirs: str | Chat | RolePrompt, chat_expert: bool
) -> RolePrompt:
    """What each role reads; `theirs` is the expert's, or the prompt again."""
    if isinstance(prompt, RolePrompt) and theirs is prompt and not chat_expert:
        return prompt
    if isinstance(prompt, RolePrompt) or isinstance(theirs, RolePrompt):
        raise ValueError(
            "a RolePrompt says what the expert reads; leave out expert_prompts and chat_expert"
        )
    is_text = isinstance(theirs, str)
    return RolePrompt(prompt, Chat(theirs) if chat_expert and is_text else theirs, prompt)


def expert_source(one: WeightedExpert) -> ExpertSource:
    """Where an expert and its anti-expert are; ValueError if nothing says what the latter is."""
    expert = _source(one.expert)
    if one.antiexpert is not None:
        return ExpertSource(expert, _source(one.antiexpert), one.weight)
    if not is_adapter(expert):
        raise ValueError(
            f"expert '{expert.name}' is no adapter, so it does not say what it was tuned "
            "from: give antiexpert, the small untuned model"
        )
    return ExpertSource(expert, adapter_base(expert), one.weight)


def _source(model: str | ModelSource) -> ModelSource:
    return ModelSource(model) if isinstance(model, str) else model
