"""What goes together with a recipe's method of training, `sft` or `dpo`, and with its start."""

from collections.abc import Iterator
from pathlib import Path

from .decoding import Decode
from .experts import Expert, ProxyCheck
from .folders import check_model
from .keys import KeyProblem
from .tasks import TaskChoice, TrainSource

ROWS = "rows of {prompt, chosen, rejected} (docs/preferences.md)"


def check_method(
    task: TaskChoice,
    mixture: tuple[TrainSource, ...],
    expert: Expert,
    decode: Decode,
    check: ProxyCheck | None,
    method: str,
) -> None:
    """Raises KeyProblem for the first key that is of another method, or of a start of one model."""
    problems = [*_of_start(expert, decode)]
    other = {"sft": "dpo", "dpo": "sft"}[method]
    if getattr(decode, f"reference_{other}"):
        problems.append((f"decode.reference_{other}", f"is not for {method}; leave it out"))
    if method == "dpo":
        problems += _not_for_preferences(task, mixture, expert, check)
    for key, problem in problems:
        raise KeyProblem(key, problem)


def check_start(key: str, start: str | None) -> None:
    """Raises KeyProblem for a start that is not there, or is no whole weights."""
    if start is None:
        return
    if (Path(start) / "adapter_config.json").is_file():
        raise KeyProblem(
            key,
            f"found {start!r}, an adapter; training starts from whole weights: merge it first "
            "(PEFT's merge_and_unload), or train it with expert.adapter: null",
        )
    check_model(key, start, ("config.json",))


def _not_for_preferences(
    task: TaskChoice, mixture: tuple[TrainSource, ...], expert: Expert, check: ProxyCheck | None
) -> Iterator[tuple[str, str]]:
    given = {
        "task.train_format": task.train_format is not None,
        "task.streaming": task.streaming,
        "mixture": bool(mixture),
    }
    for key, is_given in given.items():
        if is_given:
            yield key, f"is not for dpo, which reads the {ROWS} in task.train; leave it out"
    if expert.proxy_aware is not None:
        yield "expert.proxy_aware", "is a loss of sft, and not for dpo; leave it out"
    if task.train is None:
        yield "task.train", f"missing; dpo needs {ROWS}: name their file, folder or hub id"
    if check is not None and check.rows is None:
        yield "proxy_check.rows", "missing; preference rows cannot be held out: name other rows"


def _of_start(expert: Expert, decode: Decode) -> Iterator[tuple[str, str]]:
    """A ceiling is tuned as the expert is: both from untuned models, or neither."""
    for index, base in enumerate(decode.bases):
        start = getattr(base, "start", None)
        if start is not None and expert.start is None and expert.trained is None:
            yield f"decode.bases.{index}.start", "has no effect without expert.start; leave it out"
        if expert.start is not None and base.tune_reference and start is None:
            yield (
                f"decode.bases.{index}.start",
                "missing; the expert does not start from an untuned model, so its ceiling should "
                "not either: name this base's finished reference, or leave out tune_reference",
            )
