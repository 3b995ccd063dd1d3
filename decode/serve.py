"""Serve a finished run, or models by name, to clients of OpenAI's API.

    python decode/serve.py runs/mini-facts
    python decode/serve.py --base data/mini/large --expert runs/mini-facts/expert
    python decode/serve.py runs/mini-facts --engine vllm    # vLLM's own server (docs/vllm.md)

The models are called proxy, base, expert and tuned (where the run has one). Each request may bring
an alpha of its own. The server listens on this machine alone unless --host says otherwise; then
give it a key as well. Needs `pip install -e ".[serve]"`; docs/serving.md has requests to try.
"""

import argparse
import logging
import math
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from decode.backends.thinking import Thinking
from decode.engine.rule import Alpha
from decode.evaluation.engines import check_installed
from decode.evaluation.lineup import Contender, Lineup
from decode.jobs.faults import doing
from decode.jobs.folder import RunFolder
from decode.jobs.interruption import CTRL_C
from decode.models.adapters import adapter_base, is_adapter
from decode.models.loaded import ExpertSource, align_models
from decode.models.model_source import ModelSource
from decode.models.sources import check_weights, resolve_device
from decode.stage.command import HelpFormatter, entry, start_logging, user_errors
from decode.stage.recipe_models import lineup_of
from decode.stage.steered_folder import server_command, write_steered
from recipes.schema.recipe import load_recipe

logger = logging.getLogger(__name__)

NAMES = ("proxy", "base", "expert", "tuned")
OURS_ALONE = "models device max_waiting max_length allow_host allow_origin".split()


@entry()
def main() -> None:
    """Arguments, models, server."""
    arguments = _arguments()
    start_logging()
    if arguments.engine == "vllm":
        with user_errors(ValueError):
            command, environment = _on_vllm(arguments)
        os.execve(command[0], command, environment)
    with user_errors(ValueError):  # before any weights load
        try:
            from decode.serving import app, gate, loop, server, systems
        except ModuleNotFoundError as missing:
            raise ValueError(
                f"serving needs {missing.name}, which is not installed: pip install -e '.[serve]'"
            ) from None
        access = gate.Access(
            arguments.host,
            _api_key(arguments.api_key_env),
            arguments.allow_host,
            arguments.allow_origin,
        )
        if access.is_open:
            logger.warning(
                "--host %s: whoever reaches this machine may ask; give --api-key-env as well",
                access.host,
            )
        run = _run(Path(arguments.run)) if arguments.run else (_named_lineup(arguments), Thinking())
        lineup, thinking = run
        lineup = replace(lineup, device=arguments.device or lineup.device)
        contender = _contender(lineup, arguments.base if arguments.run else None)
        with doing("reading the models' configs and tokenizers"):
            _check(lineup, contender, arguments.models or ())
        listener = server.listen(arguments.host, arguments.port)

    with doing("loading the models"):
        served = systems.load_served(
            lineup, contender, arguments.models or NAMES, arguments.batch_size
        )
    models = loop.Loop(served, arguments.batch_size, arguments.max_waiting, lineup.num_draft_tokens)
    names = ", ".join(
        one.name if one.alpha is None else f"{one.name} (alpha {one.alpha.value:g})"
        for one in served
    )
    server.serve(
        app.create_app(served, models, access, arguments.max_length, thinking),
        listener,
        lambda address: print(f"serving {names} at {address}/v1; try it at {address}", flush=True),
        models.stop,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("run", nargs="?", help="the folder of a run, such as runs/mini-facts")
    parser.add_argument("--base", help="a large model; of a run with several bases, one's name")
    parser.add_argument("--expert", help="a small tuned model, whole or a LoRA adapter")
    parser.add_argument("--antiexpert", help="what it was tuned from; an adapter names its own")
    parser.add_argument("--tuned", help="the base, tuned itself")
    parser.add_argument("--alpha", type=_number, help="of requests without one (default 1)")
    parser.add_argument("--models", nargs="+", choices=NAMES, help="serve these alone")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: the run's, or auto)")
    parser.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 is any free one (default 8000)")
    parser.add_argument("--api-key-env", metavar="NAME", help="variable that holds the key to ask")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST", help="name in Host headers"
    )
    parser.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="site that may ask"
    )
    parser.add_argument("--batch-size", type=_count, default=8, help="rows together (default 8)")
    parser.add_argument("--max-waiting", type=_count, default=128, help="more rows (default 128)")
    parser.add_argument(
        "--max-length", type=_count, default=4096, help="tokens of a request (default 4096)"
    )
    parser.add_argument(
        "--engine", choices=("local", "vllm"), default="local", help="vllm is its own server"
    )
    arguments = parser.parse_args()
    idle = [name for name in OURS_ALONE if getattr(arguments, name) != parser.get_default(name)]
    if arguments.engine == "vllm" and idle:
        option = idle[0].replace("_", "-")
        parser.error(f"--{option} is of the toolkit's own server; leave it out with --engine vllm")
    if arguments.engine == "vllm" and not arguments.run:
        parser.error("--engine vllm serves a run; name its folder")
    own = [arguments.expert, arguments.antiexpert, arguments.tuned, arguments.alpha]
    if arguments.run and any(value is not None for value in own):
        parser.error("a run has its models and alphas; leave out the run, or these options")
    if not arguments.run and not (arguments.base and arguments.expert):
        parser.error("name a run's folder, or --base and --expert")
    return arguments


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected 1 or more")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"found {number}, expected a number")
    return number


def _on_vllm(arguments: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """The command of vLLM's server on a folder in the run's, and its environment."""
    check_installed()
    run = Path(arguments.run)
    folder = run / "vllm"
    shutil.rmtree(folder, ignore_errors=True)  # links to weights are not followed
    name = "proxy" if arguments.base is None else f"proxy-{arguments.base}"
    command = server_command(folder, write_steered(run, name, None, folder))
    command += ["--host", arguments.host, "--port", str(arguments.port)]
    command += ["--max-num-seqs", str(arguments.batch_size)]
    key = _api_key(arguments.api_key_env)
    settings = {"VLLM_USE_V2_MODEL_RUNNER": "0"}  # V1 has requests' own alphas
    return command, os.environ | settings | ({"VLLM_API_KEY": key} if key else {})


def _api_key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise ValueError(f"--api-key-env: the environment has no variable {name}, or it is empty")
    return key


def _run(run: Path) -> tuple[Lineup, Thinking]:
    """A run's models, and how its recipe keeps thinking apart."""
    folder = RunFolder(run)
    if not folder.recipe.is_file():
        raise ValueError(f"{run}: no run (no recipe.yaml); name the folder that train/sft.py left")
    recipe = load_recipe(folder.recipe)
    if recipe.expert.trained is None and not folder.expert.is_dir():
        raise ValueError(f"{folder.expert}: not there yet; train it with train/{recipe.method}.py")
    lineup = lineup_of(recipe.model_copy(update={"output_dir": str(run)}))  # it may have moved
    thinking = recipe.decode.thinking
    return lineup, Thinking() if thinking is None else Thinking(**thinking.model_dump())


def _named_lineup(arguments: argparse.Namespace) -> Lineup:
    base, expert = ModelSource(arguments.base), ModelSource(arguments.expert)
    if arguments.antiexpert is not None:
        antiexpert = ModelSource(arguments.antiexpert)
    elif is_adapter(expert):
        antiexpert = adapter_base(expert)
    else:
        raise ValueError(f"--expert: '{expert.name}' is no adapter, so --antiexpert must be given")
    tuned = None if arguments.tuned is None else ModelSource(arguments.tuned)
    return Lineup(
        (ExpertSource(expert, antiexpert),),
        (Contender("base", base, tuned),),
        (Alpha(1.0 if arguments.alpha is None else arguments.alpha),),
    )


def _contender(lineup: Lineup, slug: str | None) -> Contender:
    """The base that is served, with its directly tuned self if that is there."""
    by_slug = {contender.slug: contender for contender in lineup.contenders}
    if slug is None and len(by_slug) == 1:
        (slug,) = by_slug
    if slug not in by_slug:
        found = "several bases" if slug is None else f"no base '{slug}'"
        raise ValueError(f"--base: the run has {found}; give one of {', '.join(by_slug)}")
    contender = by_slug[slug]
    is_there = contender.tuned_is_there or (
        contender.tuned is not None and Path(contender.tuned.name).is_dir()
    )
    return contender if is_there else replace(contender, tuned=None)


def _check(lineup: Lineup, contender: Contender, names: Collection[str]) -> None:
    """Raises ValueError for what can be known before weights load."""
    resolve_device(lineup.device)
    lineup.check_tokens("the server streams and scores tokens")
    if "tuned" in names and contender.tuned is None:
        raise ValueError("--models: there is no directly tuned model; leave tuned out")
    align_models(contender.loaded_base, lineup.experts, lineup.vocabulary)
    sources = [contender.loaded_base, contender.tuned]
    sources += [source for one in lineup.experts for source in (one.expert, one.antiexpert)]
    for source in sources:
        if source is not None:
            check_weights(source)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(CTRL_C)
