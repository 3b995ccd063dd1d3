"""Liger's kernels for norms, rotary embedding and gated activations, in forwards that are recorded.

At one token a step a model's small kernels take a good part of its time; Liger computes each group
of them in one. They stand in a model only while one of its recorded forwards runs: a model in
training, a prompt, an eager read and any other model never meet them. The guard compares reads that
have them with reads that do not (guard.py).
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from .fast_path import beyond_rounding

logger = logging.getLogger(__name__)

# Types of which Liger changes nothing but attributes of modules and the rotary function.
TYPES = frozenset(
    "gemma gemma2 gemma3_text granite llama mistral olmo2 phi3 qwen2 qwen3 smollm3".split()
)
KERNELS = {"rope": True, "rms_norm": True, "swiglu": True, "geglu": True}
LOSSES = {"cross_entropy": False, "fused_linear_cross_entropy": False}

Patch = tuple[dict[str, Any], dict[str, Any]]  # a namespace; names in it and what they become


class FusedKernels:
    """The kernels of one model; without the package `liger_kernel` there are none."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._patches: list[Patch] | None = None
        self._checked: set[tuple[int, ...]] = set()

    def __call__(self, forward: Callable[[], Tensor], is_read: Tensor) -> Tensor:
        """What `forward` gives with the kernels.

        The first forward of a shape is compared with what it gives without them; if they differ by
        more than rounding, a line says so and the model goes without kernels.

        Args:
            forward: gives (B, T, V) logits of the model.
            is_read: (B, T) bool, the places whose logits count.
        """
        if self._patches == []:
            return forward()
        shape = tuple(is_read.shape)
        if shape in self._checked:
            with _in_place(self._patches or []):
                return forward()
        plain = forward()
        try:
            if self._patches is None:
                self._patches = liger_patches(self._model)
            with _in_place(self._patches):
                fused = forward()
            difference = beyond_rounding(fused[is_read], plain[is_read], self._model.dtype)
            if difference is not None:
                raise RuntimeError(f"logits were off by {difference:.3g}")
        except Exception as error:  # a compiler's, of any class
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            logger.warning("decoding without Liger's kernels (%s)", reason)
            self._patches = []
            return plain
        self._checked.add(shape)
        return fused


def liger_patches(model: PreTrainedModel) -> list[Patch]:
    """What Liger would set in a model, which is left as it is."""
    if model.config.model_type not in TYPES or importlib.util.find_spec("liger_kernel") is None:
        return []
    from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
        _apply_liger_kernel_to_instance,  # what transformers' own trainer calls
    )

    logging.getLogger("liger_kernel").setLevel(logging.ERROR)  # it names backends it goes without
    sources = {type(module).__module__ for module in model.modules()}
    sources = {name for name in sources if name.startswith("transformers.models.")}
    spaces = [vars(module) for module in model.modules()]
    spaces += [vars(sys.modules[name]) for name in sorted(sources)]
    before = [dict(space) for space in spaces]
    try:
        _apply_liger_kernel_to_instance(model=model, **KERNELS, **LOSSES)
        changes = [
            {
                name: value
                for name, value in space.items()
                if (name not in old or old[name] is not value)
                and not isinstance(value, type)  # for models to come
            }
            for space, old in zip(spaces, before, strict=True)
        ]
    finally:
        for space, old in zip(spaces, before, strict=True):
            _restore(space, old)
    return [(space, new) for space, new in zip(spaces, changes, strict=True) if new]


@contextmanager
def _in_place(patches: list[Patch]) -> Iterator[None]:
    before = [dict(space) for space, _ in patches]
    for space, new in patches:
        space.update(new)
    try:
        yield
    finally:
        for (space, _), old in zip(patches, before, strict=True):
            _restore(space, old)


def _restore(space: dict[str, Any], old: dict[str, Any]) -> None:
    for name in space.keys() - old.keys():
        del space[name]
    space.update(old)
