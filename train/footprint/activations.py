"""The activation memory of a forward and a backward, computed without weights.

The model's own code runs on tensors that have shapes and no data (torch's fake tensors), while a
ledger adds up the storages that are alive: those autograd keeps, those of recomputed layers, and
temporaries. Attention is counted as a fused kernel keeps it: no scores. The head is counted as
TRL computes it on a GPU: in tiles, never the whole (tokens, vocabulary) logits.
"""

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

HEAD_TILE = (4096, 32768)  # tokens, vocabulary: what TRL's head computes at a time


def empty_model(
    config: PretrainedConfig,
    dtype: torch.dtype,
    adapter: dict[str, Any] | None = None,
    adapter_dtype: torch.dtype = torch.float32,
) -> PreTrainedModel | PeftModel:
    """The model as it is trained, with the shapes and types of its weights and no data."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if adapter is not None:
            model = get_peft_model(model, LoraConfig(**{"task_type": "CAUSAL_LM", **adapter}))
    if adapter is not None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(adapter_dtype)
    return model.train()


def activation_bytes(
    model: PreTrainedModel | PeftModel,
    num_rows: int,
    row_tokens: int,
    is_checkpointed: bool,
    autocast: torch.dtype | None = None,
) -> int:
    """The peak bytes of activations in a forward and a backward.

    Args:
        model: an `empty_model`; it cannot be used afterwards.
        num_rows, row_tokens: of one forward, padding included.
        is_checkpointed: each layer's activations are computed again in the backward.
        autocast: the type operations are cast to, None for that of the weights.
    """
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(whole, PreTrainedModel)
    if is_checkpointed:
        whole.activation_checkpointing_enable()
        whole.enable_input_require_grads()
    with FakeTensorMode():
        _pretend_to_fill(model)
        return _measure(model, whole, num_rows, row_tokens, autocast)


def _pretend_to_fill(model: nn.Module) -> None:
    """Put fake tensors on the CPU, whose operations are those of a real run, for the meta ones."""
    made: dict[int, Tensor] = {}  # tied weights stay tied

    def filled(tensor: Tensor) -> Tensor:
        fake = made.get(id(tensor))
        if fake is None:
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                fake = nn.Parameter(fake, tensor.requires_grad)
            made[id(tensor)] = fake
        return fake

    for module in model.modules():
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is not None:
                    place[name] = filled(tensor)  # pyright: ignore


def _measure(
    model: nn.Module,
    whole: PreTrainedModel,
    num_rows: int,
    row_tokens: int,
    autocast: torch.dtype | None,
) -> int:
    # A gradient leaves as soon as it is there: where it goes is counted elsewhere.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    ledger = Ledger((*model.parameters(), *model.buffers()))
    with ledger:
        ids = torch.zeros(num_rows, row_tokens, dtype=torch.long)
        with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
            hidden = whole.base_model(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, H)
        kept = ledger.live_bytes
        hidden.backward(torch.zeros_like(hidden))
    width = (autocast or hidden.dtype).itemsize
    return max(kept + _head_bytes(whole, hidden, width), ledger.peak_bytes)


def _head_bytes(model: PreTrainedModel, hidden: Tensor, width: int) -> int:
    """Bytes of the head's backward: a tile, and gradients summed in float32, then cast."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    weight = head.weight
    assert isinstance(weight, Tensor)
    num_tokens = hidden.numel() // hidden.shape[-1]
    tile = min(num_tokens, HEAD_TILE[0]) * HEAD_TILE[1] * width
    cast = hidden.numel() * (0 if hidden.dtype == torch.float32 else hidden.element_size())
    gradients = 4 * hidden.numel() + cast
    if weight.requires_grad:
        cast = weight.numel() * (0 if weight.dtype == torch.float32 else weight.element_size())
        gradients += 4 * weight.numel() + cast
    return hidden.numel() * hidden.element_size() + tile + gradients


class Ledger(TorchDispatchMode):
    """Counts the bytes of storages that are made inside it, as long as they are alive."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live_bytes += num_bytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._remove, key, num_bytes)

    def _remove(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live_bytes -= num_bytes


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
