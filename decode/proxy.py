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
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .engine import Completion, Stops, generate
from .logits import proxy_logits
from .models import (
    LanguageModel,
    ModelSource,
    load_tokenizer,
    load_weights,
    resolve_device,
)
from .pair import Pair, adapter_base, is_adapter, load_pair
from .sampling import Sampling
from .vocab import Vocabulary, align


@dataclass(frozen=True, slots=True)
class RolePrompt:
    """The same prompt as each role reads it; all three then see the same continuation."""

    base: Sequence[int]
    expert: Sequence[int]
    antiexpert: Sequence[int]


class Steered:
    """base + alpha * (expert - antiexpert), one token a row at a time; see engine.Steppable."""

    def __init__(
        self, base: LanguageModel, pair: Pair, vocabulary: Vocabulary, alpha: float
    ) -> None:
        self.base, self.pair, self.vocabulary, self.alpha = base, pair, vocabulary, alpha

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids by which any of the three would end; those beyond the base's vocabulary are moot."""
        ids = self.base.eos_ids | self.pair.expert.eos_ids | self.pair.antiexpert.eos_ids
        return frozenset(id_ for id_ in ids if id_ < self.vocabulary.size)

    def open(self, prompts: Sequence[RolePrompt], num_slots: int, num_new_tokens: int) -> None:
        """As LanguageModel.open."""
        expert, antiexpert = [p.expert for p in prompts], [p.antiexpert for p in prompts]
        self.base.open([p.base for p in prompts], num_slots, num_new_tokens)
        self.pair.open(expert, antiexpert, num_slots, num_new_tokens)

    def prefill(self, prompts: Sequence[RolePrompt], slots: Sequence[int]) -> None:
        """As LanguageModel.prefill."""
        self.base.prefill([p.base for p in prompts], slots)
        self.pair.prefill([p.expert for p in prompts], [p.antiexpert for p in prompts], slots)

    def next_logits(self, num_rows: int) -> Tensor:
        """Combined logits of the rows in the first slots: (B, vocabulary.size) float32."""
        base = self.base.next_logits(num_rows)
        expert, antiexpert = self.pair.next_logits(num_rows)
        fit, shared = self.vocabulary.fit, self.vocabulary.shared
        return proxy_logits(
            fit(base, -torch.inf),
            fit(expert).to(base.device),
            fit(antiexpert).to(base.device),
            self.alpha,
            None if shared is None else shared.to(base.device),
        )

    def append(self, tokens: Sequence[int]) -> None:
        """As LanguageModel.append."""
        self.base.append(tokens)
        self.pair.append(tokens)

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        self.base.move(source, target)
        self.pair.move(source, target)


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
        alpha: float = 1.0,
        device: str = "auto",
        vocabulary: str = "identical",
    ) -> "ProxyTuned":
        """Load three models by name or folder; vocabularies are compared before any weights load.

        Args:
            base: the large untuned model.
            expert: the small tuned model, whole or as a LoRA adapter folder.
            antiexpert: the small untuned model; an adapter names its own, so it may be left out.
            alpha: scale of the shift; 0 is the base exactly.
            device: "auto" takes a GPU if there is one, or spreads over several.
            vocabulary: "identical", or "shared" to combine only the ids all three share.

        Raises:
            ValueError: a model is missing, cannot be decoded here, or speaks another vocabulary.
        """
        base, expert = _source(base), _source(expert)
        if antiexpert is None:
            if not is_adapter(expert.name):
                raise ValueError(
                    f"expert '{expert.name}' is no adapter, so it does not say what it was tuned "
                    "from: give antiexpert, the small untuned model"
                )
            antiexpert = adapter_base(expert)
        antiexpert = _source(antiexpert)
        tokenizers = RoleTokenizers(*map(load_tokenizer, (base, expert, antiexpert)))
        aligned = align(tokenizers.base, tokenizers.expert, tokenizers.antiexpert, vocabulary)
        device = resolve_device(device)
        pair = load_pair(expert, antiexpert, device)
        large = LanguageModel(load_weights(base, device), tokenizers.base)
        return cls(Steered(large, pair, aligned, alpha), tokenizers)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        expert_prompts: Sequence[str] | None = None,
        chat_expert: bool = False,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        banned_ids: Collection[int] = (),
    ) -> list[Completion]:
        """Completions of `prompts`, in their order.

        Args:
            expert_prompts: what the expert reads instead, one a prompt.
            chat_expert: the expert reads each prompt as a user's turn in its chat template.
            stop: strings that end a completion and are cut from its text.
            seed: fixes the draws; row i of a call gets the same tokens at any batch size.
        """
        if expert_prompts is None:
            expert_prompts = prompts
        role_prompts = [
            self.tokenizers.encode(prompt, expert_prompt, chat_expert)
            for prompt, expert_prompt in zip(prompts, expert_prompts, strict=True)
        ]
        completions = generate(
            self.steered,
            role_prompts,
            Stops(self.steered.eos_ids, tuple(stop), self.tokenizers.base),
            max_new_tokens,
            Sampling(temperature, top_k, top_p, seed),
            batch_size,
            banned_ids,
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


def _source(model: str | ModelSource) -> ModelSource:
    return ModelSource(model) if isinstance(model, str) else model
