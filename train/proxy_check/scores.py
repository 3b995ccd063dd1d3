"""Four numbers a check, of an expert in training: scores and losses on the validation rows.

The expert alone and the base steered by it answer the rows, greedily, with the decoder's own engine
and the task's own rules. The losses of both on the completions that training teaches come from
forced decoding, which takes one pass and shows changes too small to change an answer.

The base stays loaded from one check to the next (proxy-aware training has it in memory already),
with the keys and values of its prompts. So does the anti-expert of a fully tuned expert. Other
caches of keys and values are freed.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import fmean
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from decode.backends.completer import Completer, Continuation
from decode.backends.local import LocalCompleter
from decode.engine.sampling import Sampling
from decode.evaluation.experiment import Experiment
from decode.evaluation.lineup import System
from decode.jobs.terminal import Progress
from decode.models.architectures import is_positional
from decode.models.in_training import Memory, RememberingModel, keeps_its_antiexpert, live_pair
from decode.models.language_model import LanguageModel
from decode.models.loaded import ExpertSource, align_models
from decode.models.model_source import ModelSource
from decode.models.pair import load_tuned
from decode.models.prompts import RoleTokenizers, encode
from decode.models.recurrent import as_language_model
from decode.models.sources import load_frozen, load_tokenizer, load_weights
from decode.models.steered import Steered, steering_by

MARGIN = 1.1  # a right answer may be longer than the one in the data
MARGIN_TOKENS = 4

Scores = list[float]  # a row's worth each


class ProxyScores:
    """Measures an expert on the questions of an experiment, which has one base and one alpha.

    Args:
        experiment: its expert is not read; the model in training takes its place.
        completions: what training teaches to answer, None where a row has none.
        device: where the model in training is.
    """

    def __init__(
        self, experiment: Experiment, completions: Sequence[str | None], device: str
    ) -> None:
        self._experiment, self._device = experiment, device
        self._lineup = lineup = experiment.lineup
        (self._contender,) = lineup.contenders
        self._system = System("proxy", self._contender, lineup.alphas[0])
        small = lineup.antiexpert
        self._tokenizers, self._vocabulary = align_models(
            self._contender.loaded_base, [ExpertSource(small, small)], lineup.vocabulary
        )
        self._gold = self._gold_ids(completions)
        self.max_new_tokens = experiment.max_new_tokens
        if self._gold:
            longest = max(len(gold.token_ids) for gold in self._gold)
            self.max_new_tokens = min(self.max_new_tokens, int(MARGIN * longest) + MARGIN_TOKENS)
        self._base: PreTrainedModel | None = None
        self._antiexpert: PreTrainedModel | None = None
        self._memory: Memory = {}

    def load(self) -> None:
        """Load the base, if it is not there yet."""
        with self._untouched():
            self._load_base()

    def of_base(self) -> Scores:
        """The base's own scores."""
        with self._untouched():
            completer = self._alone(self._load_base(), self._contender.loaded_base)
            return self._scores(completer, System("base", self._contender))

    def of_tuned(self, tuned: ModelSource) -> Scores:
        """Those of a directly tuned base; it is unloaded afterwards."""
        with self._untouched():
            model = load_tuned(tuned, self._device)
            model.capture = None
            return self._scores(self._alone(model, tuned), System("tuned", self._contender))

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """`scores` by role (proxy, expert), `expert_loss` and `proxy_loss` in nats a token.

        Args:
            model: in training; it is given back as it was.
        """
        with self._untouched():
            if self._antiexpert is None and not keeps_its_antiexpert(model):
                self._antiexpert = load_weights(self._lineup.antiexpert, self._device)
            base = self._load_base()
            with live_pair(model, self._antiexpert, self._tokenizers.expert) as pair:
                steering = steering_by([(pair, 1.0)], self._vocabulary)
                steered = Steered(base, steering, self._vocabulary, self._lineup.alphas[0])
                size = self._lineup.batch_size
                proxy = LocalCompleter(steered, self._tokenizers, size, num_draft_tokens=0)
                found: dict[str, Any] = self._losses(proxy)
                scores = {"proxy": self._scores(proxy, self._system)}
                expert = self._alone(pair.expert, self._lineup.antiexpert)
                scores["expert"] = self._scores(expert, System("expert"))
        return {"scores": scores, **found}

    def _load_base(self) -> LanguageModel:
        if self._base is None:
            self._base = load_frozen(self._contender.loaded_base, self._device)
        tokenizer = self._tokenizers.base
        if is_positional(self._base.config):
            model: LanguageModel = RememberingModel(self._base, tokenizer, self._memory)
        else:
            model = as_language_model(self._base, tokenizer)
        model.capture = None
        return model

    def _alone(self, model: LanguageModel, source: ModelSource) -> LocalCompleter:
        tokenizers = RoleTokenizers.alone(load_tokenizer(source))
        return LocalCompleter(model, tokenizers, self._lineup.batch_size)

    def _scores(self, completer: Completer, system: System) -> Scores:
        """What a system's answers are worth."""
        experiment = self._experiment
        requests = [
            replace(request, max_new_tokens=self.max_new_tokens, sampling=Sampling())
            for request in experiment.requests(system, range(len(experiment.questions)))
        ]
        progress = Progress(f"proxy check, {system.role}", len(requests), is_part=True)
        completions = progress.follow(completer.complete(requests))
        answers = {done.name: done.text for done in completions}
        texts = [answers[place] for place in range(len(requests))]
        if experiment.grader is not None:
            verdicts = experiment.grader.grade(experiment.questions, texts)
            return [float(verdict.value or 0) for verdict in verdicts]  # programs: never open
        score = experiment.score
        assert score is not None
        questions = experiment.questions
        return [score(text, q.answers)[1] for text, q in zip(texts, questions, strict=True)]

    def _losses(self, proxy: Completer) -> dict[str, float]:
        """Mean loss over the tokens of the gold completions, of the expert and of the proxy."""
        scored = list(proxy.score(self._gold))
        losses = {
            "expert_loss": [-value for one in scored for value in one.by_role["expert"]],
            "proxy_loss": [-value for one in scored for value in one.logprobs],
        }
        return {name: fmean(values) for name, values in losses.items() if values}

    def _gold_ids(self, completions: Sequence[str | None]) -> list[Continuation]:
        """Completions as training reads them, the end of the text included, after their prompts."""
        roles = self._tokenizers
        tokenizer = roles.expert if roles.readers is None else roles.base
        end = [] if tokenizer.eos_token_id is None else [cast(int, tokenizer.eos_token_id)]
        found = []
        rows = zip(self._experiment.questions, completions, strict=True)
        for place, (question, completion) in enumerate(rows):
            if completion is not None:
                raw = encode(tokenizer, question.prompt)
                whole = encode(tokenizer, question.prompt + completion)
                while end and len(whole) > len(raw) and whole[-1] == end[0]:
                    whole.pop()  # a completion that has its end
                ids = [*whole[len(raw) :], *end]
                prompt = self._lineup.prompt(self._system, question.prompt)
                found.append(Continuation(place, prompt, ids))
        return found

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Keep the state of the random numbers as it is, and give memory back afterwards."""
        device = torch.device(self._device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            yield
        if devices:
            gc.collect()
            torch.cuda.empty_cache()
