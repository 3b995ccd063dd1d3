"""Speed of the server beside its engine alone, side by side and in turns.

    python benchmarks/serve.py runs/mini-facts                       # make demo leaves it
    python benchmarks/serve.py runs/mini-facts --task word_problems --clients 32 --batch-size 32

`engine` decodes the same requests in a process of its own without a server, as many under way as
there are clients. `server` is decode/serve.py, asked for streams; `server, whole` the same for
answers at once. `three servers` are base, expert and anti-expert, each served alone, and a client
that steers: for each token it asks each for its 20 likeliest, the most the API gives. Greedy; the
server's answers must be the engine's, of the steering client the share of equal rows is printed.
All of this is on one machine: CPU seconds are those of the servers (or the engine) alone, without
the clients'. Ratios are of tokens per second, the median over the rounds; a round runs each once.
`beside` is the CPU time of a server's other threads over that of the thread that decodes: a ratio
within one process, which other work on the machine moves least.
"""

import argparse
import asyncio
import multiprocessing
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

# A script's own folder comes first on the path, where modules of the same names would be found.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil

from benchmarks.record import record, where
from benchmarks.serve_clients import Answer, Ask, ask_all, steering, streaming, whole
from data import TASKS
from decode.engine.engine import Engine, Steppable
from decode.engine.request import Request
from decode.evaluation.lineup import Lineup
from decode.evaluation.systems import headline_alpha
from decode.jobs.folder import RunFolder
from decode.models.guard import Guarded
from decode.models.sources import load_tokenizer
from decode.serving.systems import load_served
from decode.stage.recipe_models import lineup_of
from recipes.schema.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
ENGINE = "engine"
# What one run of a system gave: its answers, the seconds they took, and the CPU seconds of the
# threads that decode and of all others.
Measured = tuple[list[Answer], float, float, float]


def main() -> None:
    arguments = parse_arguments()
    lineup = run_lineup(arguments.run)
    task = TASKS[arguments.task]
    prompts = [str(row.prompt) for row in task.eval_rows(arguments.rows, arguments.num_prompts)]
    num_tokens, asked = arguments.max_new_tokens, ("--batch-size", str(arguments.batch_size))
    base, expert, antiexpert = (
        str(one.name) for one in (lineup.contenders[0].base, lineup.expert, lineup.antiexpert)
    )
    with ExitStack() as stack:
        engine = stack.enter_context(engine_process(arguments.run, arguments.batch_size))
        served = stack.enter_context(server(arguments.run, "--models", "proxy", *asked))
        systems = {
            ENGINE: lambda clients: engine(prompts, num_tokens, clients),
            "server": asking(streaming(num_tokens), [served], prompts),
            "server, whole": asking(whole(num_tokens), [served], prompts),
        }
        if not arguments.no_steering_client:
            alone = ("--expert", expert, "--antiexpert", antiexpert, *asked, "--models")
            plain = [
                stack.enter_context(server("--base", one, *alone, name))
                for one, name in ((base, "base"), (base, "expert"), (antiexpert, "base"))
            ]
            tokenizer = load_tokenizer(lineup.contenders[0].base)
            alpha = headline_alpha(lineup.alphas)
            steer = steering(
                num_tokens, alpha, tokenizer, frozenset([cast(int, tokenizer.eos_token_id)])
            )
            systems["three servers"] = asking(steer, plain, prompts)
        measured = {
            str(clients): measure(systems, clients, arguments.num_rounds)
            for clients in arguments.clients
        }
    print_table(record(arguments, {"clients": measured}))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", default="runs/mini-facts")
    parser.add_argument("--task", default="facts", choices=TASKS, help="where prompts come from")
    parser.add_argument("--rows", help="the task's evaluation rows (.jsonl)")
    parser.add_argument("--num-prompts", type=int, default=64)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--batch-size", type=int, default=8, help="of engine and server")
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--no-steering-client", action="store_true", help="no three servers")
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    if not RunFolder(Path(arguments.run)).recipe.is_file():
        parser.error(f"{arguments.run}: no run; `make demo` leaves one in runs/mini-facts")
    return arguments


def run_lineup(run: str) -> Lineup:
    recipe = load_recipe(RunFolder(Path(run)).recipe)
    return lineup_of(recipe.model_copy(update={"output_dir": run}))


def asking(
    ask: Ask, servers: list[tuple[psutil.Process, int]], prompts: list[str]
) -> Callable[[int], Measured]:
    """A system of servers: what a number of clients measure who ask for all prompts."""

    def thread_s() -> list[dict[int, float]]:
        found = [process.threads() for process, _ in servers]
        return [{t.id: t.user_time + t.system_time for t in own} for own in found]

    def run(clients: int) -> Measured:
        start, before = time.perf_counter(), thread_s()
        answers = asyncio.run(ask_all(ask, [port for _, port in servers], prompts, clients))
        seconds = time.perf_counter() - start
        spent = [
            [cpu_s - was.get(thread, 0.0) for thread, cpu_s in own.items()]
            for own, was in zip(thread_s(), before, strict=True)
        ]
        decoding_s = sum(map(max, spent))
        return answers, seconds, decoding_s, sum(map(sum, spent)) - decoding_s

    return run


@contextmanager
def server(*arguments: str) -> Iterator[tuple[psutil.Process, int]]:
    """A server's process and its port."""
    command = [sys.executable, "decode/serve.py", *arguments, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        found = re.search(r":(\d+)/v1", process.stdout.readline())
        if found is None:
            sys.exit("error: a server did not start")
        yield psutil.Process(process.pid), int(found[1])
    finally:
        process.terminate()
        process.wait()


@contextmanager
def engine_process(run: str, batch_size: int) -> Iterator[Callable[..., Measured]]:
    """What decodes prompts without a server, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=feed, args=(there, run, batch_size), daemon=True)
    process.start()

    def ask(*asked: Any) -> Measured:
        here.send(asked)
        return here.recv()

    yield ask
    process.terminate()
    process.join()


def feed(connection: Connection, run: str, batch_size: int) -> None:
    """Answer `engine_process`: prompts, tokens of each at most, and how many are under way."""
    lineup = run_lineup(run)
    (served,) = load_served(lineup, lineup.contenders[0], ("proxy",), batch_size)
    model = Guarded(served.model)
    tokenizer, encode = served.tokenizers.base, served.tokenizers.encode
    engine = Engine(cast(Steppable, model), tokenizer, batch_size, lineup.num_draft_tokens)
    while True:
        prompts, num_tokens, num_clients = connection.recv()
        start, start_cpu = time.perf_counter(), time.process_time()
        answers, began, left = [Answer() for _ in prompts], {}, iter(enumerate(prompts))

        def begin(number: int, prompt: str, num_tokens: int = num_tokens, began=began) -> None:
            engine.add(Request(number, encode(served.prompt(prompt)), num_tokens))
            began[number] = time.perf_counter()

        for _, one in zip(range(num_clients), left, strict=False):
            begin(*one)
        while not engine.is_idle:
            for given in engine.step():
                answer = answers[int(given.name)]
                answer.token_ids += given.token_ids
                answer.first_s = answer.first_s or time.perf_counter() - began[given.name]
                if given.completion is not None:
                    model.check()
                    answer.text = given.completion.text
                    answer.num_tokens = len(answer.token_ids)
                    for one in left:
                        begin(*one)
                        break
        seconds = time.perf_counter() - start
        connection.send((answers, seconds, time.process_time() - start_cpu, 0.0))


def measure(
    systems: dict[str, Callable[[int], Measured]], clients: int, num_rounds: int
) -> dict[str, dict[str, Any]]:
    """Rates of every round, by system, and ratios to the engine's; the first round is warm-up."""
    kinds = ("tokens_per_s", "tokens_per_cpu_s", "requests_per_s", "first_s", "beside")
    found: dict[str, dict[str, Any]] = {name: {kind: [] for kind in kinds} for name in systems}
    texts: dict[str, list] = {}
    for number in range(num_rounds + 1):
        for name, run in systems.items():
            answers, seconds, decoding_s, others_s = run(clients)
            tokens = sum(answer.num_tokens for answer in answers)
            texts[name] = [
                answer.token_ids if name == "three servers" else answer.text for answer in answers
            ]
            if name == ENGINE:
                texts["three servers, expected"] = [answer.token_ids for answer in answers]
            elif name != "three servers" and texts[name] != texts[ENGINE]:
                sys.exit(f"error: {name}: other answers than the engine's")
            if number:
                found[name]["tokens_per_s"].append(tokens / seconds)
                found[name]["tokens_per_cpu_s"].append(tokens / (decoding_s + others_s))
                found[name]["requests_per_s"].append(len(answers) / seconds)
                found[name]["first_s"].append(statistics.median(a.first_s for a in answers))
                found[name]["beside"].append(others_s / decoding_s)
        print(f"{clients} clients: round {number} of {num_rounds} done", file=sys.stderr)
    for name, own in found.items():
        for rate in ("tokens_per_s", "tokens_per_cpu_s"):
            pairs = zip(own[rate], found[ENGINE][rate], strict=True)
            own[f"{rate}_over_engine"] = statistics.median(ours / its for ours, its in pairs)
        expected = texts["three servers, expected" if name == "three servers" else ENGINE]
        equal = [a == b for a, b in zip(texts[name], expected, strict=True)]
        own["equal_rows"] = sum(equal) / len(equal)
    return found


def print_table(report: dict[str, Any]) -> None:
    settings = report["settings"]
    print(
        f"\n{where(report)}; {settings['num_prompts']} prompts of {settings['task']}, batch "
        f"{settings['batch_size']}, medians of {settings['num_rounds']} rounds\n\n"
        f"{'':24}{'requests/s':>11}{'first, ms':>11}{'tokens/s':>10}{'x engine':>10}"
        f"{'per CPU s':>11}{'x engine':>10}{'beside':>8}{'equal rows':>12}"
    )
    for clients, systems in report["clients"].items():
        for name, own in systems.items():
            keys = ("requests_per_s", "first_s", "tokens_per_s", "tokens_per_cpu_s", "beside")
            requests, first, tokens, per_cpu, beside = (statistics.median(own[k]) for k in keys)
            print(f"{f'{clients:>3} {name}':24}{requests:11.1f}{first * 1e3:11.1f}", end="")
            print(f"{tokens:10.1f}{own['tokens_per_s_over_engine']:10.2f}", end="")
            print(f"{per_cpu:11.1f}{own['tokens_per_cpu_s_over_engine']:10.2f}", end="")
            print(f"{beside:8.2f}{own['equal_rows']:12.2f}")


if __name__ == "__main__":
    main()
