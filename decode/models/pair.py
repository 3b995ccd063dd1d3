"""The small models side by side: an expert and the anti-expert it was tuned from.

A LoRA expert is its anti-expert plus a few low-rank matrices, so both run as one forward of
twice the rows over one copy of the weights: even rows are the expert's and get the adapter, odd
rows are the anti-expert's. Anything else is two models.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapted import AdaptedModel, AdaptedRows, share_weights
from .language_model import LanguageModel, Pick
from .recurrent import as_language_model
from .sources import ModelSource, is_positional, load_config, load_tokenizer, load_weights

logger = logging.getLogger(__name__)

Prompts = Sequence[Sequence[int]]
Logits = tuple[Tensor, Tensor]  # of expert and anti-expert


class SharedPair:
    """Expert and anti-expert over one copy of the weights; even slots are the expert's."""

    def __init__(
        self, model: PreTrainedModel, adapted: AdaptedRows, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._both = AdaptedModel(model, tokenizer, adapted, _even)
        self.expert: LanguageModel = AdaptedModel(model, tokenizer, adapted, _all)
        self.antiexpert: LanguageModel = AdaptedModel(model, tokenizer, adapted, _none)

    @property
    def models(self) -> list[LanguageModel]:
        """All that are stepped."""
        return [self._both, self.expert, self.antiexpert]

    def open(self, expert: Prompts, antiexpert: Prompts, num_slots: int, num_new: int) -> None:
        """As LanguageModel.open, for the two roles' prompts."""
        self._both.open([*expert, *antiexpert], 2 * num_slots, num_new)

    def prefill(self, expert: Prompts, antiexpert: Prompts, slots: Sequence[int]) -> Logits:
        """As LanguageModel.prefill: expert's and anti-expert's."""
        prompts = [prompt for pair in zip(expert, antiexpert, strict=True) for prompt in pair]
        logits = self._both.prefill(prompts, _both_slots(slots))
        return logits[0::2], logits[1::2]

    def draft(self, num_rows: int, num_tokens: int, pick: Pick) -> Tensor:
        """What the expert alone would say next: (B, k) int64."""
        drafts, _ = _continue(self._both, range(0, 2 * num_rows, 2), num_tokens, pick)
        return drafts

    def read(self, drafts: Tensor) -> Logits:
        """As LanguageModel.read, of expert and anti-expert: (B, k + 1, V) each."""
        logits = self._both.read(drafts.repeat_interleave(2, 0))
        return logits[0::2], logits[1::2]

    def commit(self, emitted: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """As LanguageModel.commit."""
        self._both.commit([tokens for tokens in emitted for _ in (0, 1)], _both_slots(slots))

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        for role in (0, 1):
            self._both.move(2 * source + role, 2 * target + role)


class TwoModels:
    """Expert and anti-expert as models of their own (a fully tuned expert)."""

    def __init__(self, expert: LanguageModel, antiexpert: LanguageModel) -> None:
        self.expert, self.antiexpert = expert, antiexpert
        self._drafting_logits: list[Tensor] = []

    @property
    def models(self) -> list[LanguageModel]:
        """All that are stepped."""
        return [self.expert, self.antiexpert]

    def open(self, expert: Prompts, antiexpert: Prompts, num_slots: int, num_new: int) -> None:
        """As LanguageModel.open, for the two roles' prompts."""
        self.expert.open(expert, num_slots, num_new)
        self.antiexpert.open(antiexpert, num_slots, num_new)

    def prefill(self, expert: Prompts, antiexpert: Prompts, slots: Sequence[int]) -> Logits:
        """As LanguageModel.prefill: expert's and anti-expert's."""
        return self.expert.prefill(expert, slots), self.antiexpert.prefill(antiexpert, slots)

    def draft(self, num_rows: int, num_tokens: int, pick: Pick) -> Tensor:
        """What the expert alone would say next: (B, k) int64."""
        drafts, self._drafting_logits = _continue(self.expert, range(num_rows), num_tokens, pick)
        return drafts

    def read(self, drafts: Tensor) -> Logits:
        """As LanguageModel.read, of expert and anti-expert: (B, k + 1, V) each.

        An expert that drafted has read all but its last draft already.
        """
        if self._drafting_logits:
            num_rows, num_drafts = drafts.shape
            last = self.expert.step(drafts[:, -1:], range(num_rows), ahead=num_drafts)
            expert = torch.cat((*self._drafting_logits, last), 1)
            self._drafting_logits = []
        else:
            expert = self.expert.read(drafts)
        return expert, self.antiexpert.read(drafts)

    def commit(self, emitted: Sequence[Sequence[int]], slots: Sequence[int]) -> None:
        """As LanguageModel.commit."""
        self.expert.commit(emitted, slots)
        self.antiexpert.commit(emitted, slots)

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        self.expert.move(source, target)
        self.antiexpert.move(source, target)


Pair = SharedPair | TwoModels


def _continue(
    expert: LanguageModel, slots: range, num_tokens: int, pick: Pick
) -> tuple[Tensor, list[Tensor]]:
    """Tokens the rows in `slots` would go on with, (B, k), and the k logits (B, 1, V) of each."""
    token = expert.newest(slots)
    tokens, logits = [token[:, :0]], []
    for number in range(num_tokens):
        logits.append(expert.step(token, slots, ahead=number))
        token = pick(logits[-1][:, 0].float(), number)[:, None]
        tokens.append(token)
    return torch.cat(tokens, 1), logits


def _both_slots(slots: Sequence[int]) -> list[int]:
    return [2 * slot + role for slot in slots for role in (0, 1)]


def _even(slots: Sequence[int]) -> slice | list[int]:
    if isinstance(slots, range):
        return slice(None) if slots.step == 2 else slice(0, None, 2)
    return [row for row, slot in enumerate(slots) if slot % 2 == 0]


def _all(slots: Sequence[int]) -> slice:
    return slice(None)


def _none(slots: Sequence[int]) -> slice:
    return slice(0, 0)


def is_adapter(name: str) -> bool:
    """Whether a folder holds a PEFT adapter rather than whole weights."""
    return (Path(name) / "adapter_config.json").is_file()


def changes_its_base(start: bool | str) -> bool:
    """Whether an adapter begun so (`init_lora_weights`) takes its first weights out of its base."""
    return str(start).lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))


def adapter_base(expert: ModelSource) -> ModelSource:
    """The model an adapter folder says it was trained on, to be read as the expert is.

    Raises:
        ValueError: it was trained on other weights than that model's.
    """
    config = PeftConfig.from_pretrained(expert.name)
    if changes_its_base(start := getattr(config, "init_lora_weights", True)):
        raise ValueError(
            f"{expert.name}: an adapter begun as '{start}' belongs to weights changed by that, not "
            "to its base's own; convert it (path_initial_model_for_weight_conversion of PEFT's "
            "save_pretrained)"
        )
    return replace(expert, name=str(config.base_model_name_or_path), revision=config.revision)


def load_tuned(source: ModelSource, device: str) -> LanguageModel:
    """A tuned model on its own: whole weights, or an adapter merged into the model it names."""
    tokenizer = load_tokenizer(source)
    if not is_adapter(source.name):
        return as_language_model(load_weights(source, device), tokenizer)
    adapted = PeftModel.from_pretrained(load_weights(adapter_base(source), device), source.name)
    return as_language_model(adapted.merge_and_unload().eval(), tokenizer)


def load_pair(expert: ModelSource, antiexpert: ModelSource, device: str) -> Pair:
    """The two small models, over one copy of the weights where the expert is a LoRA of the other.

    Args:
        expert: an adapter folder, or whole weights.
        antiexpert: whole weights.
        device: "cpu", "cuda", "cuda:1", or "auto" for the first of several GPUs: small models stay
            on one, beside a base that is spread over all.
    """
    device = "cuda:0" if device == "auto" else device
    tokenizer = load_tokenizer(antiexpert)
    is_own_adapter = is_adapter(expert.name) and adapter_base(expert).is_same_model(antiexpert)
    if is_own_adapter and is_positional(load_config(antiexpert)):
        peft_model = PeftModel.from_pretrained(load_weights(antiexpert, device), expert.name).eval()
        shared = share_weights(peft_model)
        if shared is not None:
            return SharedPair(*shared, tokenizer)
        logger.info("%s is not a plain LoRA adapter: decoding with two small models", expert.name)
    small = as_language_model(load_weights(antiexpert, device), tokenizer)
    return TwoModels(load_tuned(expert, device), small)
