"""Speed of a steered base on vLLM, beside vLLM's on the base alone and our own engine, in turns.

    python benchmarks/vllm_rates.py    # in an environment with vLLM (docs/vllm.md)
    python benchmarks/vllm_rates.py --rows 32 --num-rounds 5 --option enforce_eager=true
    python benchmarks/vllm_rates.py --pair 70M/7M

Random Llamas in float32: a base, and an expert and an anti-expert of one size. Each system is a
process of its own and completes as many rows at once as --rows says, greedily and to the same
length; a round runs each once, after one of warm-up. Rates are of tokens per CPU second, which
other work on the machine moves least, and per second; ratios are medians over rounds.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where modules of the same names would be found.
sys.path[0] = str(Path(__file__).resolve().parents[1])
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # so that a process has its own CPU seconds

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.random_models import numbered_tokenizer
from benchmarks.record import record, where
from decode.backends.local import LocalCompleter
from decode.engine.request import Request
from decode.engine.rule import Alpha
from decode.models.loaded import ExpertSource, LoadedModels
from decode.models.model_source import ModelSource
from decode.models.prompts import RoleTokenizers

VOCAB_SIZE = 8192
ROLES = ("base", "expert", "antiexpert")
PAIRS = {  # of a base and of what steers it: hidden, MLP, layers, heads
    "34M/9M": ((512, 1408, 8, 8), (256, 704, 6, 4)),
    "70M/7M": ((768, 2048, 8, 12), (256, 704, 4, 4)),
}
ON_VLLM, ALONE, OURS = "steered, vLLM", "base, vLLM", "steered, ours"
Prompts = list[list[int]]
Complete = Callable[[Prompts, int], Prompts]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", choices=PAIRS, default="34M/9M", help="base and small models")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32], help="at once")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--option", action="append", default=[], help="of vllm.EngineArgs, k=v")
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    given = (option.partition("=") for option in arguments.option)
    options = {key: json.loads(value) for key, _, value in given}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        save_models(Path(folder), arguments.pair)
        most = max(arguments.rows)
        started = {
            name: start(stack, name, folder, most, options) for name in (ON_VLLM, ALONE, OURS)
        }
        measured = {str(rows): measure(started, rows, arguments) for rows in arguments.rows}
    print_table(record(arguments, {"rows": measured}))


def save_models(folder: Path, pair: str) -> None:
    for seed, name in enumerate(ROLES):
        hidden, mlp, layers, heads = PAIRS[pair][seed > 0]
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=1024,
            dtype="float32",
            eos_token_id=None,  # rows have one length
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
        numbered_tokenizer(VOCAB_SIZE).save_pretrained(folder / name)


def start(
    stack: ExitStack, name: str, folder: str, num_rows: int, options: dict[str, Any]
) -> Connection:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=feed, args=(there, name, folder, num_rows, options), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.terminate)
    here.recv()  # it is there
    return here


def feed(
    connection: Connection, name: str, folder: str, num_rows: int, options: dict[str, Any]
) -> None:
    """Complete what is asked, and say how long that took."""
    if name == ALONE:
        complete = alone(folder, num_rows, options)
    else:
        complete = steered(name, folder, num_rows, options)
    connection.send("there")
    while True:
        prompts, num_tokens = connection.recv()
        began, began_cpu = time.perf_counter(), time.process_time()
        said = complete(prompts, num_tokens)
        seconds = time.perf_counter() - began, time.process_time() - began_cpu
        connection.send((said, *seconds))


def alone(folder: str, num_rows: int, options: dict[str, Any]) -> Complete:
    """The base as vLLM itself completes it, without any of this toolkit's code."""
    from vllm import LLM, SamplingParams

    own = {"dtype": "float32", "skip_tokenizer_init": True, "max_num_seqs": num_rows, **options}
    llm = LLM(f"{folder}/base", **own)

    def complete(prompts: Prompts, num_tokens: int) -> Prompts:
        params = SamplingParams(
            temperature=0, max_tokens=num_tokens, ignore_eos=True, detokenize=False
        )
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        done = llm.generate(asked, params, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in done]

    return complete


def steered(name: str, folder: str, num_rows: int, options: dict[str, Any]) -> Complete:
    """The steered base on either engine, by its completer."""
    base, expert, antiexpert = (ModelSource(f"{folder}/{name}") for name in ROLES)
    experts, own = [ExpertSource(expert, antiexpert)], numbered_tokenizer(VOCAB_SIZE)
    if name == ON_VLLM:
        from decode.backends.vllm_engine import VllmModels

        models = VllmModels(num_rows, options)
        tokenizers = RoleTokenizers.alone(own)
        completer = models.completer(base, experts, tokenizers, VOCAB_SIZE, Alpha(1.0))
    else:
        model, tokenizers = LoadedModels("cpu").steered(base, experts, "identical", 1.0)
        completer = LocalCompleter(model, tokenizers, num_rows)

    def complete(prompts: Prompts, num_tokens: int) -> Prompts:
        requests = [Request(n, tuple(p), num_tokens) for n, p in enumerate(prompts)]
        done = {one.name: list(one.token_ids) for one in completer.complete(requests)}
        return [done[n] for n in range(len(prompts))]

    return complete


def measure(
    started: dict[str, Connection], num_rows: int, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Rates of every round by system; the first round is warm-up."""
    found = {name: {"tokens_per_s": [], "tokens_per_cpu_s": []} for name in started}
    generator = torch.Generator().manual_seed(num_rows)
    for number in range(arguments.num_rounds + 1):
        shape = num_rows, arguments.prompt_tokens  # new ones: no prompt is cached
        prompts = torch.randint(8, VOCAB_SIZE, shape, generator=generator).tolist()
        said = {}
        for name, system in started.items():
            system.send((prompts, arguments.new_tokens))
            said[name], seconds, cpu_s = system.recv()
            if number:
                num_tokens = sum(map(len, said[name]))
                found[name]["tokens_per_s"].append(num_tokens / seconds)
                found[name]["tokens_per_cpu_s"].append(num_tokens / cpu_s)
        if said[ON_VLLM] != said[OURS]:
            print("note: some tokens differ between the engines", file=sys.stderr)
        print(f"{num_rows} rows: round {number} of {arguments.num_rounds} done", file=sys.stderr)
    return found


def print_table(report: dict[str, Any]) -> None:
    settings = report["settings"]
    print(
        f"\n{where(report)}; {settings['prompt_tokens']} + {settings['new_tokens']} tokens a row, "
        f"medians of {settings['num_rounds']} rounds\n\n{'':20}{'tokens/CPU s':>14}"
        f"{'x base alone':>14}{'tokens/s':>11}{'x base alone':>14}"
    )
    for rows, systems in report["rows"].items():
        alone = systems[ALONE]
        for name, own in systems.items():
            print(f"{rows:>3} {name:16}", end="")
            for rate, width in (("tokens_per_cpu_s", 14), ("tokens_per_s", 11)):
                pairs = zip(own[rate], alone[rate], strict=True)
                ratio = statistics.median(mine / its for mine, its in pairs)
                print(f"{statistics.median(own[rate]):{width}.1f}{ratio:14.2f}", end="")
            print()


if __name__ == "__main__":
    main()
