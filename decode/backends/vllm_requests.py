"""A request's own alpha and rule in vLLM's server, sent as `vllm_xargs`.

    {"model": "proxy", "prompt": "...", "vllm_xargs": {"alpha": 0.5, "by_doubt": true}}

vLLM tells its logits processors which request is in which row. This one changes no logits: it keeps
the rows' alphas for the model, which combines its logits just after. It is an interface of model
runner V1; V2 has another. Prompts are scored at the server's own alpha.
"""

# pyright: reportMissingImports=false

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from ..engine.rule import Alpha, Rule
from .vllm_plugin import SECTION

RULE = frozenset(one.name for one in fields(Rule))


@dataclass(slots=True)
class Asked:
    """What rows of the next step ask for.

    Attributes:
        by_row: alphas of rows that bring one.
        is_next: the next logits are a row each; those of prompts that are scored come after.
    """

    by_row: dict[int, Alpha] = field(default_factory=dict)
    is_next: bool = False

    def take(self) -> dict[int, Alpha]:
        """The alphas by row for the logits that are computed now."""
        is_next, self.is_next = self.is_next, False
        return self.by_row if is_next else {}


asked = Asked()  # of this process's model


class RequestAlphas(LogitsProcessor):
    """Keeps in `asked` what the rows of a step ask for."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        given = sampling_params.extra_args or {}
        if alpha_of(given, Alpha(1.0)) is not None and sampling_params.prompt_logprobs is not None:
            raise ValueError("vllm_xargs: a prompt is scored at the server's alpha; leave it out")

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        if vllm_config.speculative_config is not None:
            raise ValueError("requests have alphas of their own only without speculation")
        given = getattr(vllm_config.model_config.hf_config, SECTION)
        self._own = Alpha(given["alpha"], Rule(**given["rule"]))
        asked.by_row.clear()

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(
            asked.by_row,
            batch_update,
            lambda params, *_: alpha_of(params.extra_args or {}, self._own),
        )
        asked.is_next = True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True


def alpha_of(given: Mapping[str, Any], own: Alpha) -> Alpha | None:
    """What a request asks for where it differs from the server's own; None if it asks nothing.

    Raises:
        ValueError: in one line which key has no such value.
    """
    rule = {key: given[key] for key in given if key in RULE}
    if "alpha" not in given and not rule:
        return None
    value = given.get("alpha", own.value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise ValueError(f"vllm_xargs.alpha: found {value!r:.60}, expected a number")
    try:
        changed = replace(own.rule, **rule)
    except (TypeError, ValueError) as error:
        raise ValueError(f"vllm_xargs: {error}") from None
    if not changed.is_even:
        raise ValueError("vllm_xargs: vLLM does not tell models a token's place")
    return Alpha(float(value), changed)
