"""What the validation rows say of an expert in training: four numbers a check.

The expert alone and the base steered by it answer the rows, greedily, with the decoder's own engine
and the task's own rules; and both say how likely they find the completions that training teaches
(teacher.py), which costs one pass and sees changes too small to turn an answer.

The base stays loaded from one check to the next (proxy-aware training has it in memory already),
with the keys and values of its prompts, and beside a fully tuned expert its anti-expert; other
caches of keys and values do not stay.
"""

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from decode.engine.alpha import Alpha
from decode.engine.engine import Steppable, generate
from decode.engine.sampling import Sampling
from decode.engine.stops import Stops
from decode.evaluation.experiment import Experiment
from decode.models.forced import forced_logits
from decode.models.in_training import keeps_its_antiexpert, live_pair
from decode.models.language_model import LanguageModel
from decode.models.pair import load_tuned
from decode.models.proxy_tuned import RoleTokenizers, align_all, encode
from decode.models.recurrent import as_language_model
from decode.models.remembered import Memory, RememberingModel
from decode.models.sources import (
    ModelSource,
    is_positional,
    load_frozen,
    load_tokenizer,
    load_weights,
)
from decode.models.steered import RolePrompt, Steered

logger = logging.getLogger(__name__)

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
        (self._contender,) = experiment.contenders
        small = load_tokenizer(experiment.antiexpert)
        self._tokenizers = RoleTokenizers(load_tokenizer(self._contender.base), small, small)
        same = experiment.antiexpert
        self._vocabulary = align_all(self._tokenizers.base, [(same, same)], experiment.vocabulary)
        self._prompts = [
            self._tokenizers.encode(question.prompt, chat=experiment.expert_is_chat)
            for question in experiment.questions
        ]
        self._gold = self._gold_ids(completions)
        self.max_new_tokens = experiment.max_new_tokens
        if self._gold:
            longest = max(len(ids) for _, ids in self._gold)
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
            model = self._load_base()
            return self._scores(model, self._contender.base, False)

    def of_tuned(self, tuned: ModelSource) -> Scores:
        """Those of a directly tuned base; it is let go of afterwards."""
        with self._untouched():
            model = load_tuned(tuned, self._device)
            model.capture = None
            return self._scores(model, tuned, self._contender.tuned_is_chat)

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """`scores` by role (proxy, expert), `expert_loss` and `proxy_loss` in nats a token.

        Args:
            model: in training; it is given back as it was.
        """
        with self._untouched():
            if self._antiexpert is None and not keeps_its_antiexpert(model):
                self._antiexpert = load_weights(self._experiment.antiexpert, self._device)
            base = self._load_base()
            with live_pair(model, self._antiexpert, self._tokenizers.expert) as pair:
                alpha = Alpha(self._experiment.alphas[0], self._experiment.alpha_warmup_tokens)
                steered = Steered(base, pair, self._vocabulary, alpha)
                stops = Stops(steered.eos_ids, self._experiment.stop, self._tokenizers.base)
                found: dict[str, Any] = self._losses(steered)
                scores = {"proxy": self._answered(steered, stops, self._prompts)}
                source, chat = self._experiment.antiexpert, self._experiment.expert_is_chat
                scores["expert"] = self._scores(pair.expert, source, chat)
        return {"scores": scores, **found}

    def _load_base(self) -> LanguageModel:
        if self._base is None:
            self._base = load_frozen(self._contender.base, self._device)
        tokenizer = self._tokenizers.base
        if is_positional(self._base.config):
            model: LanguageModel = RememberingModel(self._base, tokenizer, self._memory)
        else:
            model = as_language_model(self._base, tokenizer)
        model.capture = None
        return model

    def _scores(self, model: LanguageModel, source: ModelSource, chat: bool) -> Scores:
        tokenizer = load_tokenizer(source)
        prompts = [encode(tokenizer, q.prompt, chat) for q in self._experiment.questions]
        stops = Stops(model.eos_ids, self._experiment.stop, tokenizer)
        return self._answered(model, stops, prompts)

    def _answered(self, model: Steppable, stops: Stops, prompts: Sequence[Any]) -> Scores:
        """What the model's answers are worth."""
        experiment, size = self._experiment, self._experiment.batch_size
        while True:
            try:
                answers = sorted(
                    generate(model, prompts, stops, self.max_new_tokens, Sampling(), size),
                    key=lambda completion: completion.index,
                )
                break
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                logger.warning("proxy check: out of memory, trying batches of %d", size)
        texts = [answer.text for answer in answers]
        if experiment.grader is not None:
            verdicts = experiment.grader.grade(experiment.questions, texts)
            return [float(verdict.value or 0) for verdict in verdicts]  # programs: never open
        score = experiment.score
        assert score is not None
        questions = experiment.questions
        return [score(text, q.answers)[1] for text, q in zip(texts, questions, strict=True)]

    def _losses(self, steered: Steered) -> dict[str, float]:
        """Mean loss over the tokens of the gold completions, of the expert and of the proxy."""
        size = self._experiment.batch_size
        losses: dict[str, list[float]] = {"expert": [], "proxy": []}
        for start in range(0, len(self._gold), size):
            prompts, golds = zip(*self._gold[start : start + size], strict=True)
            with torch.inference_mode():
                for role, values in _log_probs(steered, prompts, golds):
                    losses[role] += [-value for value in values]
        return {f"{role}_loss": fmean(values) for role, values in losses.items() if values}

    def _gold_ids(self, completions: Sequence[str | None]) -> list[tuple[RolePrompt, list[int]]]:
        """Prompts with the completions as training reads them, the end of the text included."""
        tokenizer = self._tokenizers.expert
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        found = []
        rows = zip(self._experiment.questions, self._prompts, completions, strict=True)
        for question, prompt, completion in rows:
            if completion is not None:
                raw = encode(tokenizer, question.prompt)
                whole = encode(tokenizer, question.prompt + completion)
                while end and len(whole) > len(raw) and whole[-1] == end[0]:
                    whole.pop()  # a tokenizer that ends every text
                found.append((prompt, [*whole[len(raw) :], *end]))
        return found

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """Random numbers go on afterwards as if nothing had happened, and memory is given back."""
        device = torch.device(self._device)
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            yield
        if devices:
            gc.collect()
            torch.cuda.empty_cache()


def _log_probs(
    steered: Steered, prompts: Sequence[RolePrompt], golds: Sequence[Sequence[int]]
) -> Iterator[tuple[str, list[float]]]:
    """Log-probabilities of the gold tokens, by role, in the order they are read."""
    for first, logits in forced_logits(steered, prompts, golds):
        for role in ("expert", "proxy"):
            said = getattr(logits, role).log_softmax(-1)  # (B, T, V)
            values: list[float] = []
            for row, gold in zip(said, golds, strict=True):
                steps = min(len(gold) - first, len(row))
                if steps > 0:
                    ids = torch.tensor(gold[first : first + steps], device=row.device)
                    values += row[:steps].gather(-1, ids[:, None])[:, 0].tolist()
            yield role, values
