"""Servers of a steered base and of the base alone, asked over HTTP, in turns.

    python benchmarks/vllm_serving.py    # in an environment with vLLM (docs/vllm.md)
    python benchmarks/vllm_serving.py --clients 1 8 --num-rounds 3 --option=--enforce-eager

The models are those of vllm_rates.py. `steered, vLLM` is vLLM's server on an exported folder,
`base, vLLM` the same on the base alone, `steered, ours` is decode/serve.py. All stay up; a round
asks each for the same prompts as streams, greedily and to one length, by as many clients at once
as --clients says; one of warm-up comes first. CPU seconds are those of a server's processes.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where modules of the same names would be found.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import psutil
import torch

from benchmarks.record import record, where
from benchmarks.serve_clients import ask_all, streaming
from benchmarks.vllm_rates import ALONE, ON_VLLM, OURS, PAIRS, ROLES, VOCAB_SIZE, save_models
from decode.backends.vllm_folder import write_folder
from decode.engine.rule import Alpha
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.stage.steered_folder import REQUESTS, SERVER

LONGEST_START_S = 900


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", choices=PAIRS, default="34M/9M", help="base and small models")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], help="at once")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--option", action="append", default=[], help="of vLLM's server")
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save_models(folder, arguments.pair)
        sources = base, expert, antiexpert = [ModelSource(f"{folder}/{name}") for name in ROLES]
        experts = [ExpertSource(expert, antiexpert)]
        write_folder(folder / "steered", base, experts, VOCAB_SIZE, Alpha(1.0))
        rows = str(max(arguments.clients))
        on_vllm = ["-m", SERVER, "--served-model-name", "proxy", "--dtype", "float32"]
        on_vllm += ["--max-num-seqs", rows, *arguments.option, "--model"]
        named = zip(ROLES, sources, strict=True)
        ours = [part for role, source in named for part in (f"--{role}", source.name)]
        commands = {
            ON_VLLM: [*on_vllm, str(folder / "steered"), "--logits-processors", REQUESTS],
            ALONE: [*on_vllm, base.name],
            OURS: ["decode/serve.py", *ours, "--models", "proxy", "--batch-size", rows],
        }
        servers = {name: stack.enter_context(server(own)) for name, own in commands.items()}
        measured = {
            str(clients): measure(servers, clients, arguments) for clients in arguments.clients
        }
    print_table(record(arguments, {"clients": measured}))


@contextmanager
def server(command: list[str]) -> Iterator[tuple[psutil.Process, int]]:
    """A server's process and its port, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    # vllm_rates.py sets the one for itself; requests' own alphas need the other
    settings = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
    process = subprocess.Popen(
        [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port)],
        cwd=ROOT,
        env=os.environ | settings,
        stdout=sys.stderr,
    )
    try:
        end = time.monotonic() + LONGEST_START_S
        while not is_up(port):
            if process.poll() is not None or time.monotonic() > end:
                sys.exit("error: a server did not start")
            time.sleep(1)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        process.wait()


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60):
            return True
    except OSError:
        return False


def cpu_s(process: psutil.Process) -> float:
    found = [own.cpu_times() for own in (process, *process.children(recursive=True))]
    return sum(times.user + times.system for times in found)


def measure(
    servers: dict[str, tuple[psutil.Process, int]], clients: int, arguments: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """What every round measured, by system; the first round is warm-up."""
    kinds = ("requests_per_s", "first_s", "tokens_per_s", "tokens_per_cpu_s")
    found = {name: {kind: [] for kind in kinds} for name in servers}
    ask = streaming(arguments.new_tokens)
    generator = torch.Generator().manual_seed(clients)
    for number in range(arguments.num_rounds + 1):
        shape = arguments.num_prompts, arguments.prompt_tokens  # new ones: no prompt is cached
        prompts = torch.randint(8, VOCAB_SIZE, shape, generator=generator).tolist()
        texts = {}
        for name, (process, port) in servers.items():
            start, before = time.perf_counter(), cpu_s(process)
            answers = asyncio.run(ask_all(ask, [port], prompts, clients))
            seconds, spent = time.perf_counter() - start, cpu_s(process) - before
            texts[name] = [answer.text for answer in answers]
            if number:
                num_tokens = sum(answer.num_tokens for answer in answers)
                firsts = statistics.median(answer.first_s for answer in answers)
                values = len(answers) / seconds, firsts, num_tokens / seconds, num_tokens / spent
                for kind, value in zip(kinds, values, strict=True):
                    found[name][kind].append(value)
        if texts[ON_VLLM] != texts[OURS]:
            print("note: some answers differ between the engines", file=sys.stderr)
        print(f"{clients} clients: round {number} of {arguments.num_rounds}", file=sys.stderr)
    return found


def print_table(report: dict[str, Any]) -> None:
    settings = report["settings"]
    print(
        f"\n{where(report)}; {settings['num_prompts']} prompts of {settings['prompt_tokens']} + "
        f"{settings['new_tokens']} tokens, medians of {settings['num_rounds']} rounds\n\n{'':20}"
        f"{'requests/s':>11}{'first, ms':>11}{'tokens/s':>10}{'x base':>8}{'per CPU s':>11}"
        f"{'x base':>8}"
    )
    for clients, systems in report["clients"].items():
        for name, own in systems.items():
            print(f"{clients:>3} {name:16}{statistics.median(own['requests_per_s']):11.2f}", end="")
            print(f"{statistics.median(own['first_s']) * 1e3:11.0f}", end="")
            for rate, width in (("tokens_per_s", 10), ("tokens_per_cpu_s", 11)):
                pairs = zip(own[rate], systems[ALONE][rate], strict=True)
                ratio = statistics.median(mine / its for mine, its in pairs)
                print(f"{statistics.median(own[rate]):{width}.1f}{ratio:8.2f}", end="")
            print()


if __name__ == "__main__":
    main()
