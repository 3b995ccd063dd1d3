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

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, cast

from transformers import PreTrainedTokenizerBase

from ..engine.alpha import Alpha
from ..engine.engine import Completion, generate
from ..engine.sampling import Sampling
from ..engine.stats import DecodingStats
from ..engine.stops import Stops
from .pair import adapter_base, is_adapter, load_pair
from .recurrent import as_language_model
from .sources import (
    ModelSource,
    load_tokenizer,
    load_weights,
    resolve_device,
)
from .steered import RolePrompt, Steered, Steering
from .vocab import Vocabulary, align, tokens_by_id


@dataclass(frozen=True, slots=True)
class RoleTokenizers:
    """Each role's tokenizer; prompts may differ by role, continuations are the base's tokens."""

    base: PreTrainedTokenizerBase
    expert: PreTrainedTokenizerBase
    antiexpert: PreTrainedTokenizerBase

    def encode(
        self, prompt: str, expert_prompt: str | None = None, chat: bool = False
    ) -> RolePrompt:
        """The prompt as each role reads it; `chat` puts the expert's in its chat template."""
        return RolePrompt(
            encode(self.base, prompt),
            encode(self.expert, prompt if expert_prompt is None else expert_prompt, chat),
            encode(self.antiexpert, prompt),
        )


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
    ) -> "ProxyTuned":
        """Load three models by name or folder; vocabularies are compared before any weights load.

        Args:
            base: the large untuned model.
            expert: the small tuned model, whole or as a LoRA adapter folder.
            antiexpert: the small untuned model; an adapter names its own, so it may be left out.
            alpha: scale of the shift; 0 is the base exactly. `Alpha` makes it grow at first.
            device: "auto" takes a GPU if there is one, or spreads over several.
            vocabulary: "identical", or "shared" to combine only the ids all models share.
            more_experts: the shift is alpha times the sum of weighted differences.

        Raises:
            ValueError: a model is missing, or speaks another vocabulary.
        """
        base = _source(base)
        weighted = [WeightedExpert(expert, 1.0, antiexpert), *more_experts]
        small = [_small_sources(one) for one in weighted]
        tokenizers = RoleTokenizers(*map(load_tokenizer, (base, *small[0])))
        aligned = align_all(tokenizers.base, small, vocabulary)
        device = resolve_device(device)
        steering = [
            Steering(load_pair(*sources, device), one.weight)
            for one, sources in zip(weighted, small, strict=True)
        ]
        large = as_language_model(load_weights(base, device), tokenizers.base)
        return cls(Steered(large, steering, aligned, alpha), tokenizers)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | Sequence[int],
        *,
        alpha: float | Alpha | Sequence[float | Alpha] | None = None,
        expert_prompts: Sequence[str] | None = None,
        chat_expert: bool = False,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        banned_ids: Collection[int] = (),
        num_draft_tokens: int | Literal["auto"] = "auto",
        stats: DecodingStats | None = None,
    ) -> list[Completion]:
        """Completions of `prompts`, in their order.

        Args:
            max_new_tokens: of every completion, or one number a prompt.
            alpha: instead of the model's own; one, or one a prompt.
            expert_prompts: what the expert reads instead, one a prompt.
            chat_expert: the expert reads each prompt as a user's turn in its chat template.
            stop: strings that end a completion and are cut from its text.
            seed: fixes the draws; row i of a call gets the same tokens at any batch size.
            num_draft_tokens: tokens the expert drafts a round; "auto" is whatever is fastest. The
                completions do not depend on it.
            stats: counts and timings are added to it.
        """
        if expert_prompts is None:
            expert_prompts = prompts
        if alpha is None or isinstance(alpha, float | int | Alpha):
            alpha = [self.steered.alpha if alpha is None else alpha] * len(prompts)
        role_prompts = [
            replace(
                self.tokenizers.encode(prompt, expert_prompt, chat_expert),
                alpha=own if isinstance(own, Alpha) else Alpha(own),
            )
            for prompt, expert_prompt, own in zip(prompts, expert_prompts, alpha, strict=True)
        ]
        completions = generate(
            self.steered,
            role_prompts,
            Stops(self.steered.eos_ids, tuple(stop), self.tokenizers.base),
            max_new_tokens,
            Sampling(temperature, top_k, top_p, seed),
            batch_size,
            banned_ids,
            num_draft_tokens=num_draft_tokens,
            stats=stats,
        )
        return sorted(completions, key=lambda completion: completion.index)


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, chat: bool = False) -> list[int]:
    """A prompt as ids, raw (with the tokenizer's own special tokens) or as a user's chat turn.

    Raises:
        ValueError: the prompt has no tokens, or `chat` is asked of a tokenizer without a template.
    """
    if not chat:
        ids = tokenizer(prompt)["input_ids"]
    elif tokenizer.chat_template is None:
        raise ValueError(
            f"'{tokenizer.name_or_path}' has no chat template; its prompts can only be raw"
        )
    else:
        turn = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    if not ids:
        raise ValueError("an empty prompt has no token to continue; give it at least one")
    return cast(list[int], ids)


def align_all(
    base: PreTrainedTokenizerBase,
    small: Sequence[tuple[ModelSource, ModelSource]],
    mode: str,
) -> Vocabulary:
    """What the base and every expert and anti-expert share; raises as `vocab.align` does."""
    aligned = [
        align(base, load_tokenizer(expert), load_tokenizer(antiexpert), mode)
        for expert, antiexpert in small
    ]
    return reduce(Vocabulary.both, aligned, Vocabulary(len(tokens_by_id(base))))


def _small_sources(one: WeightedExpert) -> tuple[ModelSource, ModelSource]:
    expert = _source(one.expert)
    if one.antiexpert is not None:
        return expert, _source(one.antiexpert)
    if not is_adapter(expert.name):
        raise ValueError(
            f"expert '{expert.name}' is no adapter, so it does not say what it was tuned "
            "from: give antiexpert, the small untuned model"
        )
    return expert, adapter_base(expert)


def _source(model: str | ModelSource) -> ModelSource:
    return ModelSource(model) if isinstance(model, str) else model
