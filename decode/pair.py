"""The small models side by side: an expert and the anti-expert it was tuned from.

A LoRA expert is its anti-expert plus a few low-rank matrices, so both run as one forward of
twice the rows over one copy of the weights: even rows are the expert's and get the adapter, odd
rows are the anti-expert's. Anything else is two models.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .models import LanguageModel, ModelSource, load_tokenizer, load_weights

logger = logging.getLogger(__name__)

Prompts = Sequence[Sequence[int]]

# LoraConfig keys by which the expert's other weights would differ from the anti-expert's, too.
CHANGES_MORE_THAN_LINEARS = ("modules_to_save", "trainable_token_indices", "layer_replication")


@dataclass
class AdaptedRows:
    """Which rows of a batch the adapter applies to; read by every AdaptedLinear of a model."""

    rows: slice = field(default_factory=lambda: slice(None))


class AdaptedLinear(nn.Module):
    """A frozen linear layer plus scaling * B(A(x)) on the chosen rows only."""

    def __init__(self, lora: LoraLinear, adapted: AdaptedRows) -> None:
        super().__init__()
        self.base_layer = lora.base_layer
        self.lora_a = cast(nn.Linear, lora.lora_A["default"])
        self.lora_b = cast(nn.Linear, lora.lora_B["default"])
        self.scaling = lora.scaling["default"]
        self.adapted = adapted

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, in) -> (B, T, out)."""
        out = self.base_layer(x)
        rows = self.adapted.rows
        delta = self.lora_b(self.lora_a(x[rows].to(self.lora_a.weight.dtype))) * self.scaling
        out[rows] = (out[rows] + delta).to(out.dtype)  # in the order PEFT rounds
        return out


def share_weights(expert: PeftModel) -> tuple[PreTrainedModel, AdaptedRows] | None:
    """The expert's base model with switchable adapters, or None if these are not plain LoRA."""
    model = cast(PreTrainedModel, expert.base_model.model)
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    config = expert.peft_config["default"]
    changes_more = getattr(config, "bias", "none") != "none" or any(
        getattr(config, key, None) for key in CHANGES_MORE_THAN_LINEARS
    )
    is_plain = not changes_more and all(
        type(layer) is LoraLinear
        and isinstance(layer.base_layer, nn.Linear)
        and not layer.lora_variant  # DoRA and its kind
        and not layer.merged
        for _, layer in layers
    )
    if not is_plain or not layers or len(expert.peft_config) != 1:
        return None
    adapted = AdaptedRows()
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        linear = AdaptedLinear(cast(LoraLinear, layer), adapted)
        setattr(model.get_submodule(parent), child, linear)
    return model, adapted


class SharedPair:
    """Expert and anti-expert over one copy of the weights."""

    def __init__(
        self, model: PreTrainedModel, adapted: AdaptedRows, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._adapted = adapted
        self._both = LanguageModel(model, tokenizer)
        self.expert: LanguageModel = RoleModel(model, tokenizer, adapted, slice(None))
        self.antiexpert: LanguageModel = RoleModel(model, tokenizer, adapted, slice(0, 0))

    def open(self, expert: Prompts, antiexpert: Prompts, num_slots: int, num_new: int) -> None:
        """As LanguageModel.open, for the two roles' prompts."""
        self._both.open([*expert, *antiexpert], 2 * num_slots, num_new)

    def prefill(self, expert: Prompts, antiexpert: Prompts, slots: Sequence[int]) -> None:
        """As LanguageModel.prefill."""
        rows = [prompt for pair in zip(expert, antiexpert, strict=True) for prompt in pair]
        with _adapting(self._adapted, slice(0, None, 2)):
            self._both.prefill(rows, [2 * slot + role for slot in slots for role in (0, 1)])

    def next_logits(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """As LanguageModel.next_logits, of expert and anti-expert: (B, V) each."""
        with _adapting(self._adapted, slice(0, None, 2)):
            logits = self._both.next_logits(2 * num_rows)
        return logits[0::2], logits[1::2]

    def append(self, tokens: Sequence[int]) -> None:
        """As LanguageModel.append."""
        self._both.append([token for token in tokens for _ in (0, 1)])

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        for role in (0, 1):
            self._both.move(2 * source + role, 2 * target + role)


class RoleModel(LanguageModel):
    """One role of a shared pair on its own: every row gets the adapter, or none does."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        adapted: AdaptedRows,
        rows: slice,
    ) -> None:
        super().__init__(model, tokenizer)
        self._adapted, self._rows = adapted, rows

    def run(self, network: nn.Module, ids: Tensor, slots: slice | Tensor, positions: Tensor) -> Any:
        """As LanguageModel.run."""
        with _adapting(self._adapted, self._rows):
            return super().run(network, ids, slots, positions)


@contextmanager
def _adapting(adapted: AdaptedRows, rows: slice) -> Iterator[None]:
    before, adapted.rows = adapted.rows, rows
    try:
        yield
    finally:
        adapted.rows = before


@dataclass
class TwoModels:
    """Expert and anti-expert as models of their own (a fully tuned expert)."""

    expert: LanguageModel
    antiexpert: LanguageModel

    def open(self, expert: Prompts, antiexpert: Prompts, num_slots: int, num_new: int) -> None:
        """As LanguageModel.open, for the two roles' prompts."""
        self.expert.open(expert, num_slots, num_new)
        self.antiexpert.open(antiexpert, num_slots, num_new)

    def prefill(self, expert: Prompts, antiexpert: Prompts, slots: Sequence[int]) -> None:
        """As LanguageModel.prefill."""
        self.expert.prefill(expert, slots)
        self.antiexpert.prefill(antiexpert, slots)

    def next_logits(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """As LanguageModel.next_logits, of expert and anti-expert: (B, V) each."""
        return self.expert.next_logits(num_rows), self.antiexpert.next_logits(num_rows)

    def append(self, tokens: Sequence[int]) -> None:
        """As LanguageModel.append."""
        self.expert.append(tokens)
        self.antiexpert.append(tokens)

    def move(self, source: int, target: int) -> None:
        """As LanguageModel.move."""
        self.expert.move(source, target)
        self.antiexpert.move(source, target)


Pair = SharedPair | TwoModels


def is_adapter(name: str) -> bool:
    """Whether a folder holds a PEFT adapter rather than whole weights."""
    return (Path(name) / "adapter_config.json").is_file()


def adapter_base(expert: ModelSource) -> ModelSource:
    """The model an adapter folder says it was trained on, to be read as the expert is."""
    config = PeftConfig.from_pretrained(expert.name)
    return replace(expert, name=str(config.base_model_name_or_path), revision=config.revision)


def load_tuned(source: ModelSource, device: str) -> LanguageModel:
    """A tuned model on its own: whole weights, or an adapter merged into the model it names."""
    tokenizer = load_tokenizer(source)
    if not is_adapter(source.name):
        return LanguageModel(load_weights(source, device), tokenizer)
    adapted = PeftModel.from_pretrained(load_weights(adapter_base(source), device), source.name)
    return LanguageModel(adapted.merge_and_unload().eval(), tokenizer)


def load_pair(expert: ModelSource, antiexpert: ModelSource, device: str) -> Pair:
    """The two small models, over one copy of the weights where the expert is a LoRA of the other.

    Args:
        expert: an adapter folder, or whole weights.
        antiexpert: whole weights.
        device: "cpu", "cuda", "cuda:1" or "auto".
    """
    tokenizer = load_tokenizer(antiexpert)
    if is_adapter(expert.name) and adapter_base(expert).is_same_model(antiexpert):
        peft_model = PeftModel.from_pretrained(load_weights(antiexpert, device), expert.name).eval()
        shared = share_weights(peft_model)
        if shared is not None:
            return SharedPair(*shared, tokenizer)
        logger.info("%s is not a plain LoRA adapter: decoding with two small models", expert.name)
    small = LanguageModel(load_weights(antiexpert, device), tokenizer)
    return TwoModels(load_tuned(expert, device), small)
