"""The model type `proxytune` of lm-eval: a system of a run, or of three models.

Importing this module makes the type known to lm-eval.
"""

import math
import os
from dataclasses import replace
from functools import partial
from typing import Any, get_args

from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from recipes.schema.section import Dtype

from ..backends.harness_model import HarnessModel
from ..backends.harness_tokens import common_length
from ..backends.proxy_tuned import WeightedExpert, expert_source
from ..engine.rule import Alpha
from ..evaluation.lineup import Contender, Lineup
from ..evaluation.loaded import Completers
from ..jobs.folder import RunFolder
from ..models.model_source import ModelSource
from .chosen_system import chosen_system, lineup_of_run, models_of

LARGEST_BATCH = 64  # where lm-eval is told `auto`; it is halved when memory runs out


@register_model("proxytune")
class HarnessSystem(HarnessModel):
    """A system's models, by what `--model_args` says.

    Args:
        run: the folder of a run whose models are trained.
        system: `proxy`, `base`, `tuned`, `expert` or `antiexpert`; where a run has several bases,
            with the base's name, as in `proxy-<base>`.
        alpha: of `proxy`; the run's headline alpha, or 1, if left out.
        batch_size: a number or `auto`.
        max_length: tokens of context and completion; if left out, what all models can hold.
        device: "auto" takes a GPU, or spreads over several. "cuda:0", which lm-eval says where its
            user says nothing, means the same.
        models: instead of a run: `base`, `expert` and, unless the expert is an adapter,
            `antiexpert`, each a folder or a hub id; and `dtype`, `vocabulary`, `trust_remote_code`.

    Raises:
        ValueError: in one line what is missing, unfinished or unknown.
    """

    def __init__(
        self,
        run: str | None = None,
        system: str = "proxy",
        alpha: float | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        device: str = "auto",
        **models: Any,
    ) -> None:
        if isinstance(alpha, bool | str) or not math.isfinite(alpha or 0.0):
            raise ValueError(f"alpha: found {alpha!r}, expected a number")
        if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
            raise ValueError(f"max_length: found {max_length!r}, expected a number from 2")
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            raise ValueError("this model decodes in one process; start it without a launcher")
        given = _lineup_of_models(**models) if run is None else _lineup_of_run(str(run), models)
        lineup = replace(
            given,
            batch_size=_batch_size(batch_size, max_batch_size),
            device="auto" if device == "cuda:0" else device,
        )
        chosen = chosen_system(lineup, str(system), alpha)
        if chosen.role == "proxy":
            lineup.check_tokens("lm-eval asks for scores of tokens")
        sources = models_of(lineup, chosen)
        length = common_length(sources) if max_length is None else max_length
        completer = Completers(lineup).of(chosen)
        super().__init__(completer, completer.tokenizers, length, partial(lineup.prompt, chosen))


def _lineup_of_run(run: str, models: dict[str, Any]) -> Lineup:
    if models:
        raise ValueError(f"{', '.join(models)}: given beside run, which has its models; leave out")
    return lineup_of_run(RunFolder(run))


def _lineup_of_models(
    base: str | None = None,
    expert: str | None = None,
    antiexpert: str | None = None,
    dtype: str = "auto",
    vocabulary: str = "identical",
    trust_remote_code: bool = False,
    **unknown: Any,
) -> Lineup:
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not known here; docs/lm_eval.md has all arguments")
    if base is None or expert is None:
        raise ValueError("no models: give run=FOLDER, or base=MODEL,expert=MODEL")
    if dtype not in get_args(Dtype):
        raise ValueError(f"dtype: found {dtype!r}, expected {' or '.join(get_args(Dtype))}")
    source = partial(ModelSource, dtype=dtype, trust_remote_code=trust_remote_code)
    small = None if antiexpert is None else source(str(antiexpert))
    return Lineup(
        experts=(expert_source(WeightedExpert(source(str(expert)), 1.0, small)),),
        contenders=(Contender("base", source(str(base)), None),),
        alphas=(Alpha(1.0),),
        vocabulary=vocabulary,
    )


def _batch_size(given: int | str, most: int | None) -> int:
    if str(given).startswith("auto"):
        return most or LARGEST_BATCH
    if not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"batch_size: found {given!r}, expected a number from 1, or auto")
    return int(given)
