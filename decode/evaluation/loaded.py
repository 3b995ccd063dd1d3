"""The completers of an experiment's systems, and the models behind them.

The small models and one large model are in memory at a time; a run that was finished loads nothing.
"""

from ..backends.local import LocalCompleter
from ..engine.logits import Alpha
from ..models.loaded import ExpertSource, LoadedModels
from ..models.prompts import RoleTokenizers
from ..models.sources import load_tokenizer
from .experiment import Experiment, System


class Completers:
    """One completer a system, made when it is asked for."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._models = LoadedModels(experiment.device)

    def of(self, system: System) -> LocalCompleter:
        """The system's completer; what it has taken is counted from now on."""
        experiment, models, contender = self._experiment, self._models, system.contender
        if system.role == "proxy":
            assert contender is not None and system.alpha is not None
            alpha = Alpha(system.alpha, experiment.alpha_warmup_tokens)
            experts = [
                ExpertSource(experiment.expert, experiment.antiexpert),
                *experiment.more_experts,
            ]
            model, tokenizers = models.steered(
                contender.base, experts, experiment.vocabulary, alpha
            )
        else:
            if contender is None:
                pair = models.pair(experiment.expert, experiment.antiexpert)
                is_expert = system.role == "expert"
                source = experiment.expert if is_expert else experiment.antiexpert
                model = pair.expert if is_expert else pair.antiexpert
            elif system.role == "base":
                source, model = contender.base, models.base(contender.base)
            else:
                assert contender.tuned is not None
                source, model = contender.tuned, models.tuned(contender.tuned)
            tokenizers = RoleTokenizers.alone(load_tokenizer(source))
        return LocalCompleter(model, tokenizers, experiment.batch_size, experiment.num_draft_tokens)

    def leave(self) -> None:
        """Let go of all models."""
        self._models.leave()
