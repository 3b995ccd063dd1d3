"""The models of an experiment: loaded when a system needs them, dropped after the last that does.

The small models and one large model are in memory at a time; a run that was finished loads nothing.
"""

import gc
from typing import Any

import torch

from ..engine.alpha import Alpha
from ..engine.engine import Steppable
from ..engine.stops import Stops
from ..models.language_model import LanguageModel
from ..models.pair import Pair, load_pair, load_tuned
from ..models.proxy_tuned import RoleTokenizers, align_all, encode
from ..models.recurrent import as_language_model
from ..models.sources import ModelSource, load_tokenizer, load_weights, resolve_device
from ..models.steered import Steered, Steering
from .experiment import Experiment, System


class Cast:
    """Who is on: at most one pair of small models and one large model."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._device = resolve_device(experiment.device)
        self._pair: Pair | None = None
        self._more: list[Steering] | None = None
        self._large: LanguageModel | None = None
        self._large_source: ModelSource | None = None

    def on(self, system: System, experiment: Experiment) -> tuple[Steppable, Stops, list[Any]]:
        """The system's model, and as ids the stops and prompts of an experiment with these models.

        An experiment after the first differs in nothing but its questions and how they are asked.
        """
        prompts = [question.prompt for question in experiment.questions]
        contender = system.contender
        if system.role == "proxy":
            assert contender is not None and system.alpha is not None
            sources = contender.base, experiment.expert, experiment.antiexpert
            tokenizers = RoleTokenizers(*map(load_tokenizer, sources))
            more = [(more.expert, more.antiexpert) for more in experiment.more_experts]
            small = [(experiment.expert, experiment.antiexpert), *more]
            aligned = align_all(tokenizers.base, small, experiment.vocabulary)
            steering = [Steering(self._small()), *self._more_steering()]
            alpha = Alpha(system.alpha, experiment.alpha_warmup_tokens)
            model = Steered(self._base(contender.base), steering, aligned, alpha)
            ids = [tokenizers.encode(prompt, chat=experiment.expert_is_chat) for prompt in prompts]
            return model, Stops(model.eos_ids, experiment.stop, tokenizers.base), ids
        if contender is None:
            is_expert = system.role == "expert"
            source = experiment.expert if is_expert else experiment.antiexpert
            model = self._small().expert if is_expert else self._small().antiexpert
            chat = is_expert and experiment.expert_is_chat
        elif system.role == "base":
            source, model, chat = contender.base, self._base(contender.base), False
        else:
            assert contender.tuned is not None
            source, model = contender.tuned, self._tuned(contender.tuned)
            chat = contender.tuned_is_chat
        tokenizer = load_tokenizer(source)
        ids = [encode(tokenizer, prompt, chat) for prompt in prompts]
        return model, Stops(model.eos_ids, experiment.stop, tokenizer), ids

    def leave(self) -> None:
        """Let go of all models."""
        self._pair = self._more = None
        self._drop_large()

    def _small(self) -> Pair:
        if self._pair is None:
            experiment = self._experiment
            self._pair = load_pair(experiment.expert, experiment.antiexpert, self._device)
        return self._pair

    def _more_steering(self) -> list[Steering]:
        if self._more is None:
            self._more = [
                Steering(load_pair(more.expert, more.antiexpert, self._device), more.weight)
                for more in self._experiment.more_experts
            ]
        return self._more

    def _base(self, source: ModelSource) -> LanguageModel:
        if self._large is None or self._large_source != source:
            self._drop_large()
            model = load_weights(source, self._device)
            self._large = as_language_model(model, load_tokenizer(source))
            self._large_source = source
        return self._large

    def _tuned(self, source: ModelSource) -> LanguageModel:
        self._pair = self._more = None  # references come last: the small models are done
        if self._large is None or self._large_source != source:
            self._drop_large()
            self._large, self._large_source = load_tuned(source, self._device), source
        return self._large

    def _drop_large(self) -> None:
        self._large = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
