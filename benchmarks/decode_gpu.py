"""Speed at real sizes with random weights: real compute, acceptance forced to a given rate.

    python benchmarks/decode_gpu.py --pair 13b/1b --batch-sizes 1 8 32 64       # one GPU of 80 GB
    python benchmarks/decode_gpu.py --pair tiny/tinier --device cpu             # does it run at all

Random models never agree, so drafts are judged by a coin of the given rate instead: the coin's side
is written into the verified logits, and everything else (three models, their caches, the
combination, the choice, the bookkeeping, the guard) runs as it does in earnest. Prompts are ragged:
a row's has from half of `--prompt-tokens` to all of them.

Measured in turns at every batch size, prompts included (the compiled base after all others):
  loop            three transformers forwards a token
  ours, drafts k  with the guard, as a completer decodes; `no guard` is the same without it
  base, ours      the base alone through the same engine
  base, generate  the base alone through transformers' generate
  base, compiled  the same with its static cache, on a GPU compiled and replayed as CUDA graphs
Also a round's parts (device time of draft, verify and choose; the rest is the host's), and each
model's own step over the weight-read limit: the bytes of its weights, over the bandwidth of a large
copy measured here (which reads and writes every byte once).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where decode.py would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.gpu_batch import SYSTEMS, Batch, ratio, synchronize
from benchmarks.random_models import (
    PAIRS,
    CoinSteered,
    numbered_tokenizer,
    random_model,
    weight_bytes,
)
from benchmarks.record import record, where
from decode.engine.request import Request, RolePrompt
from decode.engine.row import Row
from decode.models.language_model import LanguageModel
from decode.models.pair import TwoModels
from decode.models.vocab import Vocabulary

NUM_STEPS = 20  # of a model alone


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    large, small = arguments.pair.split("/")
    vocab, dtype = PAIRS[arguments.pair], getattr(torch, arguments.dtype)
    models = [random_model(size, vocab, device, dtype) for size in (large, small, small)]
    tokenizer = numbered_tokenizer(vocab)
    base, expert, antiexpert = (LanguageModel(model, tokenizer) for model in models)
    steered = CoinSteered(base, TwoModels(expert, antiexpert), Vocabulary(vocab), 1.0)
    steered.acceptance = arguments.acceptance
    steered.generator = torch.Generator(device).manual_seed(0)
    bandwidth = copy_bandwidth(device)
    limits = {
        "base": weight_bytes(models[0]) / bandwidth,
        "small": weight_bytes(models[1]) / bandwidth,
    }
    report = {
        "parameters": {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("base", models[0]), ("small", models[1]))
        },
        "copy_bytes_per_second": bandwidth,
        "weight_read_limit_s": limits,
    }
    batches: dict[int, Batch] = {}
    step_seconds: dict[int, dict[str, float]] = {}
    for batch_size in arguments.batch_sizes:
        prompts = ragged_prompts(batch_size, arguments.prompt_tokens, vocab)
        batches[batch_size] = Batch(steered, models, prompts, arguments, tokenizer)
        batches[batch_size].measure()
        step_seconds[batch_size] = {
            f"{name}, {num_tokens} token(s)": step_s(model, prompts, num_tokens)
            for name, model in (("base", base), ("small", expert))
            for num_tokens in (1, 1 + max(arguments.drafts, default=0))
        }
        steered.clear()
        print(f"batch {batch_size} done", file=sys.stderr)
    if "compiled" in arguments.systems:  # last: torch.compile's graphs end ours (graphs.py)
        for batch in batches.values():
            batch.measure_compiled()
    report["batches"] = {
        size: batch.report() | {"model_step_s": step_seconds[size]}
        for size, batch in batches.items()
    }
    report = record(arguments, report)
    print_tables(report)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pair", default="13b/1b", choices=PAIRS, help="base/small")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--drafts", type=int, nargs="*", default=[4])
    parser.add_argument(
        "--acceptance", type=float, default=0.8, help="chance that a draft is accepted"
    )
    parser.add_argument("--prompt-tokens", type=int, default=128, help="of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--json", help="write everything measured to this file")
    return parser.parse_args()


def ragged_prompts(count: int, longest: int, vocab: int) -> list[list[int]]:
    """Random ids; lengths from a half of `longest` to all of it, evenly, the longest first."""
    generator = torch.Generator().manual_seed(0)
    lengths = [longest - n * (longest // 2) // max(count - 1, 1) for n in range(count)]
    return [torch.randint(vocab, (length,), generator=generator).tolist() for length in lengths]


@torch.inference_mode()
def step_s(model: LanguageModel, prompts: list[list[int]], num_tokens: int) -> float:
    """Seconds of one step of a model alone that reads `num_tokens` tokens in every row."""
    rows = [Row(Request(n, RolePrompt.same(ids), 2 + num_tokens)) for n, ids in enumerate(prompts)]
    for row in rows:
        row.token_ids.append(1)
    model.reserve(rows, len(rows), 0)
    model.prefill(rows, range(len(rows)))
    drafts = torch.ones(len(rows), num_tokens - 1, dtype=torch.long, device=model.device)
    for _ in range(3):
        model.read(rows, drafts)
    synchronize(model.device)
    start = time.perf_counter()
    for _ in range(NUM_STEPS):
        model.read(rows, drafts)
    synchronize(model.device)
    return (time.perf_counter() - start) / NUM_STEPS


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes, the best of ten."""
    source = torch.empty(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8)
    source = source.to(device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * len(source) / min(seconds)


def print_tables(report: dict[str, Any]) -> None:
    settings = report["settings"]
    sizes = " / ".join(f"{count / 1e6:,.1f}M" for count in report["parameters"].values())
    print(
        f"{where(report)}; {settings['pair']}: {sizes} random weights, {settings['dtype']}, up to "
        f"{settings['prompt_tokens']} + {settings['new_tokens']} tokens, acceptance forced to "
        f"{settings['acceptance']}, medians of {settings['num_rounds']} rounds"
    )
    for batch_size, batch in report["batches"].items():
        columns = list(batch["ratios"])
        print(f"\nbatch {batch_size:<22}{'tokens/s':>10}", end="")
        print("".join(f"{name:>21}" for name in columns), "   ms a round: draft verify choose host")
        for name, rates in batch["tokens_per_second"].items():
            line = f"{name:28}{statistics.median(rates):10.1f}"
            line += "".join(f"{batch['ratios'][column][name]:21.2f}" for column in columns)
            if name in batch["rounds"]:
                parts = batch["rounds"][name]["round_s"].values()
                line += "              " + "".join(f"{part * 1e3:8.2f}" for part in parts)
            print(line)
        for name, seconds in batch["model_step_s"].items():
            limit = report["weight_read_limit_s"][name.partition(",")[0]]
            print(f"  {name}: {seconds * 1e3:.2f} ms, {seconds / limit:.2f}x the weight-read limit")
        for name, rates in batch["tokens_per_second"].items():
            guarded = batch["tokens_per_second"].get(name.removesuffix(", no guard"))
            if name.endswith(", no guard") and guarded:
                share = 1 - ratio(guarded, rates)
                print(f"  the guard: {share:.1%} of the time of {settings['new_tokens']} tokens")


if __name__ == "__main__":
    main()
