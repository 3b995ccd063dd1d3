"""The settings that decide a system's predictions, as they are recorded beside them.

A run folder made with other settings is not continued, and an analysis reads completions with the
models that made them.
"""

from dataclasses import asdict
from typing import Any

from ..backends.next_tokens import EndpointSource
from ..engine.rule import PAPER, Alpha
from ..engine.sampling import Sampling
from ..jobs.files import read_json, text_digest, weights_digest
from ..jobs.folder import RunFolder, SettingsChanged
from ..jobs.seals import DECODING_SEALED, SEALED
from ..models.chat import PromptForm
from ..models.model_source import ModelSource
from .engines import engine_settings
from .experiment import Experiment
from .lineup import Lineup, System
from .prediction_file import check_rows

# What a record leaves out where it has this value: a key that older records do not have.
UNSAID = {"min_p": 0.0, "repetition_penalty": 1.0}
UNRULED = asdict(PAPER)


def claim(experiment: Experiment, folder: RunFolder) -> None:
    """Record what decides every system's predictions and grades, and check those there are.

    Raises:
        SettingsChanged: the folder holds predictions or grades made with other settings.
        FileChanged: a row is not what a run wrote there.
    """
    for system in experiment.lineup.systems:
        settings = {**_settings(experiment, system), **SEALED, **DECODING_SEALED}
        claims = {folder.predictions(system.name): settings}
        if experiment.grader is not None:
            claims[folder.grades(system.name)] = {**settings, **experiment.grader.settings}
        for path, own in claims.items():
            folder.claim(path, own)
            check_rows(path, folder.read(path), experiment.row_ids, folder.seals(path))


def model_settings(lineup: Lineup, system: System) -> dict[str, Any]:
    """A system's models, each with the digest of its weights, and how they are combined."""
    contender = system.contender
    expert = {"expert": _identity(lineup.expert), "chat": lineup.expert_prompt.settings}
    antiexpert = {
        "antiexpert": _identity(lineup.antiexpert),
        **_chat("antiexpert_chat", lineup.antiexpert_prompt),
    }
    if system.role == "expert":
        return expert
    if contender is None:
        return antiexpert
    base = {"base": _identity(contender.base), **_chat("base_chat", contender.prompt)}
    if system.role == "base":
        return base
    if system.role == "tuned":
        assert contender.tuned is not None
        return {"tuned": _identity(contender.tuned), **_chat("chat", contender.tuned_prompt)}
    assert system.alpha is not None
    return {
        **base,
        **antiexpert,
        **expert,
        **steering_settings(system.alpha),
        "vocabulary": lineup.vocabulary,
        "more_experts": [
            {
                "expert": _identity(more.expert),
                "antiexpert": _identity(more.antiexpert),
                "weight": more.weight,
            }
            for more in lineup.experts[1:]
        ],
    }


def _chat(key: str, form: PromptForm) -> dict[str, Any]:
    """How a model is asked, if not by raw prompts, which records leave out."""
    return {key: form.settings} if form.is_chat else {}


def check_models(lineup: Lineup, system: System, folder: RunFolder) -> None:
    """Check that the lineup's models are those that the system's predictions were made with.

    Weights are compared rather than names, so a run folder may have been moved.

    Raises:
        SettingsChanged: a model, or how they are combined, is another.
    """
    predictions = folder.predictions(system.name)
    record = folder.settings(predictions)
    if not record.exists():
        raise SettingsChanged(f"{record}: missing; it says what the predictions were made with")
    found = read_json(record)
    for key, value in model_settings(lineup, system).items():
        then, now = _by_weights(found.get(key)), _by_weights(value)
        if (then or now) and then != now:  # older records leave out what is 0 or none
            raise SettingsChanged(
                f"{predictions} was made with {key} {then}, and this recipe has {now}; give the "
                "recipe of the run, or decode it again with decode/run.py"
            )


def steering_settings(alpha: Alpha) -> dict[str, Any]:
    """Alpha, and how its rule differs from the paper's formula."""
    rule = {key: value for key, value in asdict(alpha.rule).items() if UNRULED[key] != value}
    warmup_tokens = rule.pop("warmup_tokens", 0)
    return {
        "alpha": alpha.value,
        "alpha_warmup_tokens": warmup_tokens,
        **({"rule": rule} if rule else {}),
    }


def _settings(experiment: Experiment, system: System) -> dict[str, Any]:
    questions = [text for q in experiment.questions for text in (q.id, q.prompt, *q.answers)]
    return {
        **model_settings(experiment.lineup, system),
        **engine_settings(experiment.lineup),
        "task": experiment.task,
        "questions": text_digest(questions),
        "stop": list(experiment.stop),
        "max_new_tokens": experiment.max_new_tokens,
        **_sampling(experiment.sampling),
        **({"num_samples": experiment.num_samples} if experiment.num_samples > 1 else {}),
        **({} if experiment.harness is None else {"lm_eval": experiment.harness.settings}),
        **({} if experiment.thinking is None else {"thinking": asdict(experiment.thinking)}),
    }


def _sampling(sampling: Sampling) -> dict[str, Any]:
    return {key: value for key, value in asdict(sampling).items() if UNSAID.get(key) != value}


def _identity(source: ModelSource | EndpointSource) -> dict[str, Any]:
    if isinstance(source, EndpointSource):
        return source.identity
    return {**source.identity, "weights": weights_digest(source.name)}


def _by_weights(value: Any) -> Any:
    """A recorded value, every model in it by its weights, or by name where they are on the hub."""
    if isinstance(value, list):
        return [_by_weights(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "weights" not in value:
        return {key: _by_weights(item) for key, item in value.items()}
    weights = value["weights"] or f"{value['name']}@{value['revision']}"
    quantization = value.get("quantization")
    return weights if quantization is None else {"weights": weights, "quantised": quantization}
