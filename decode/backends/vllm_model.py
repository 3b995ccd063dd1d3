"""Base and small models as one model of vLLM, which then batches, caches and serves it.

vLLM loads the class below by the architecture's name (vllm_plugin.py). A model's config is the
base's own, with the class's name as its architecture and a section that says what steers it. All
models read the same tokens; their hidden states go side by side to `compute_logits`, where the
formula applies in float32, outside of what vLLM compiles and records.

What of vLLM is touched, checked on 0.32 (CPU, model runner V1): `ModelRegistry`, entry points of
`vllm.general_plugins`; `initialize_model`, `with_hf_config`, `replace` and `ModelConfig` (runner
"draft"), `set_model_tag` and `additional_config` to make models inside a model and to
compile each by itself; `secondary_weights` and `AutoWeightsLoader` to load them;
`worker_extension_cls` with `collective_rpc` to set alpha; `LLMEngine` with `SamplingParams`
(vllm_completer.py); `LogitsProcessor` and the order of its calls (vllm_requests.py). These carry no
promise, so `pyproject.toml` has a range.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false

import copy
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import ModelConfig, VllmConfig
from vllm.config.utils import replace
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models.utils import AutoWeightsLoader

from ..engine.rule import Alpha, Rule, steered_logits
from ..models.vocab import Vocabulary
from .vllm_plugin import SECTION
from .vllm_requests import asked


class ProxyTunedForCausalLM(nn.Module):
    """A base steered by experts, or a model alone.

    The config's section holds `architectures`, those of the base; `vocab_size`, its tokenizer's;
    `alpha` and `rule`; and `small`: expert, anti-expert and weight of each difference, the models
    as folders, absolute or in the base's.

    Shapes: N tokens or rows, V the tokenizer's vocabulary, W the width of the base's logits.

    Attributes:
        alpha: of rows whose request brings none (vllm_requests.py); `Steering.steer` sets it.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config
        given: dict[str, Any] = getattr(config.hf_config, SECTION)
        self.alpha = Alpha(given["alpha"], Rule(**given["rule"]))
        self._vocabulary, self._width = Vocabulary(given["vocab_size"]), config.get_vocab_size()
        roles = [  # prefixes hold no digit: it would be a layer's
            (f"{role}_{letter}", _small_config(config, one[role]))
            for letter, one in zip(string.ascii_lowercase, given["small"], strict=False)
            for role in ("expert", "antiexpert")
        ]
        shapes = [own.compute_hash() for _, own in roles]
        own = vllm_config.with_hf_config(config.hf_config, given["architectures"])
        # Without a prefix: a quantised base's settings call its layers as its own class does.
        self._models = [initialize_model(_told_apart(own, *shapes), prefix="")]
        self.secondary_weights: list[DefaultModelLoader.Source] = []
        self._hidden_sizes = [config.get_hidden_size()]
        self.add_module("base", self._models[0])
        self._strengths = [float(one["weight"]) for one in given["small"]]
        for prefix, own in roles:
            self._add(_told_apart(vllm_config, prefix, *shapes), prefix, own)

    def _add(self, vllm_config: VllmConfig, prefix: str, own: ModelConfig) -> None:
        cache = copy.copy(vllm_config.cache_config)
        cache.sliding_window = own.get_sliding_window()
        with_own = replace(vllm_config, model_config=own, cache_config=cache, quant_config=None)
        with set_model_tag(prefix):
            model = initialize_model(with_own, prefix=prefix)
        self.add_module(prefix, model)
        self._models.append(model)
        self._hidden_sizes.append(own.get_hidden_size())
        self.secondary_weights.append(
            DefaultModelLoader.Source(own.model, None, prefix=f"{prefix}.")
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self._models[0].embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of all models side by side: (N, sum of their sizes)."""
        # Copied one by one: recorded graphs share memory, and the next model's would write into it.
        return torch.cat([model(input_ids, positions).clone() for model in self._models], -1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """(N, W) float32; None where vLLM gathers the logits on another process."""
        parts = hidden_states.split(self._hidden_sizes, -1)
        said = [
            model.compute_logits(part.contiguous())
            for model, part in zip(self._models, parts, strict=True)
        ]
        if any(logits is None for logits in said):
            return None
        fit = self._vocabulary.fit
        base, small = fit(said[0], -torch.inf), [fit(logits) for logits in said[1:]]
        combined = self._combined(base, list(zip(small[::2], small[1::2], strict=True)))
        padding = self._width - combined.shape[-1]
        return nn.functional.pad(combined, (0, padding), value=-torch.inf) if padding else combined

    def _combined(self, base: Tensor, small: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """(N, V) float32, each row by its request's alpha and rule."""
        weighted = [(*pair, own) for pair, own in zip(small, self._strengths, strict=True)]
        by_row, by_rule = asked.take(), {}
        if not by_row:
            return steered_logits(base, weighted, self.alpha.value, self.alpha.rule)
        alphas = [by_row.get(row, self.alpha) for row in range(len(base))]
        for row, alpha in enumerate(alphas):
            by_rule.setdefault(alpha.rule, []).append(row)
        combined = torch.empty_like(base, dtype=torch.float32)
        for rule, rows in by_rule.items():
            where = torch.tensor(rows, device=base.device)
            own = [(expert[where], anti[where], weight) for expert, anti, weight in weighted]
            values = torch.tensor([alphas[row].value for row in rows], device=base.device)
            combined[where] = steered_logits(base[where], own, values[:, None], rule)
        return combined

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(self._named(weights))

    def _named(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        prefixes = tuple(source.prefix for source in self.secondary_weights)
        for name, tensor in weights:
            yield name if name.startswith(prefixes) else f"base.{name}", tensor


class Steering:
    """What a worker of vLLM can be told, by `collective_rpc`; vLLM makes workers inherit it."""

    def steer(self, alpha: float, rule: dict[str, Any]) -> None:
        """Steer all rows so from now on; cached keys and values do not depend on it."""
        model = self.model_runner.get_model()  # pyright: ignore[reportAttributeAccessIssue]
        model.alpha = Alpha(alpha, Rule(**rule))


def _small_config(whole: ModelConfig, name: str) -> ModelConfig:
    inside = Path(whole.model) / name
    return ModelConfig(
        model=str(inside) if inside.is_dir() else name,
        runner="draft",
        dtype=whole.dtype,
        max_model_len=whole.max_model_len,
        trust_remote_code=whole.trust_remote_code,
        enforce_eager=whole.enforce_eager,
        seed=whole.seed,
    )


def _told_apart(config: VllmConfig, *by: str) -> VllmConfig:
    """The config with `by` in its hash, which names the files of what vLLM compiles.

    A model inside a model would else run by another's code, or by code compiled for the small
    models of an earlier start.
    """
    given = config.additional_config
    assert isinstance(given, dict)  # any other class is a further platform's own
    told = copy.copy(config)
    told.additional_config = {**given, SECTION: by}
    return told
