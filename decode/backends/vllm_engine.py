"""vLLM started on models: a base steered by experts, or one model alone."""

# pyright: reportMissingImports=false

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllm import EngineArgs, LLMEngine
from vllm.distributed import cleanup_dist_env_and_memory

from ..engine.rule import Alpha
from ..models.loaded import ExpertSource
from ..models.model_source import ModelSource
from ..models.prompts import RoleTokenizers
from ..models.sources import load_config
from .vllm_completer import VllmCompleter
from .vllm_folder import dtype_of, end_ids, section, whole_folder
from .vllm_plugin import ARCHITECTURE, SECTION


class VllmModels:
    """Models on vLLM, one engine at a time, which is started when its completer is asked for.

    Args:
        batch_size: rows that an engine steps together at most.
        options: further `vllm.EngineArgs`.
        num_draft_tokens: tokens that the first expert drafts a step, loaded a second time for it.
    """

    def __init__(
        self, batch_size: int, options: Mapping[str, Any], num_draft_tokens: int = 0
    ) -> None:
        self._batch_size, self._options = batch_size, options
        self._num_draft_tokens = num_draft_tokens
        self._running: tuple[Any, LLMEngine] | None = None

    def completer(
        self,
        large: ModelSource,
        experts: Sequence[ExpertSource],
        tokenizers: RoleTokenizers,
        vocab_size: int,
        alpha: Alpha | None,
    ) -> VllmCompleter:
        """A completer of a model that experts steer; every alpha has the same engine.

        Args:
            alpha: of requests that bring none of their own; None is the large model alone.
        """
        key = large, tuple(experts)
        if self._running is None or self._running[0] != key:
            self.unload()
            with TemporaryDirectory(prefix="proxytune-merged-") as folder:  # until it is loaded
                self._running = key, self._start(large, experts, vocab_size, Path(folder))
        small = [] if alpha is None else experts
        ends = end_ids([large, *(model for one in small for model in (one.expert, one.antiexpert))])
        own = frozenset(id_ for id_ in ends if id_ < vocab_size)
        engine = self._running[1]
        return VllmCompleter(engine, tokenizers, alpha, own, vocab_size, self._batch_size)

    def unload(self) -> None:
        """Stop the engine, which frees its models."""
        if self._running is not None:
            self._running[1].engine_core.shutdown()
            self._running = None
            gc.collect()
            cleanup_dist_env_and_memory()  # of an engine in this very process

    def _start(
        self, large: ModelSource, experts: Sequence[ExpertSource], vocab_size: int, folder: Path
    ) -> LLMEngine:
        small = [
            {
                "expert": whole_folder(one.expert, folder / f"expert-{number}"),
                "antiexpert": whole_folder(one.antiexpert, folder / f"antiexpert-{number}"),
                "weight": one.weight,
            }
            for number, one in enumerate(experts)
        ]
        model = whole_folder(large, folder / "large")
        whole = ModelSource(model, dtype=large.dtype, trust_remote_code=large.trust_remote_code)
        config = load_config(whole)
        models = [model, *(one[role] for one in small for role in ("expert", "antiexpert"))]
        configs = (load_config(replace(whole, name=name)).get_text_config() for name in models)
        lengths = [getattr(own, "max_position_embeddings", None) for own in configs]
        arguments = {
            "model": model,
            "skip_tokenizer_init": True,
            "trust_remote_code": large.trust_remote_code,
            "dtype": dtype_of(whole),
            "max_num_seqs": self._batch_size,
            "max_logprobs": -1,
            "max_model_len": min(filter(None, lengths), default=None),
            "generation_config": "vllm",
            "hf_overrides": {
                "architectures": [ARCHITECTURE],
                SECTION: section(config.architectures, small, vocab_size, Alpha(1.0)),
            },
            "worker_extension_cls": f"{__package__}.vllm_model.Steering",
            "disable_log_stats": True,
            **self._options,
        }
        if small and self._num_draft_tokens:
            arguments["speculative_config"] = {
                "method": "draft_model",
                "model": small[0]["expert"],
                "num_speculative_tokens": self._num_draft_tokens,
            }
        return LLMEngine.from_engine_args(EngineArgs(**arguments))
