"""Speed of proxy-tuned decoding, side by side in one process and in turns.

    python benchmarks/decode.py                     # the mini family and the expert of `make demo`
    python benchmarks/decode.py --base FOLDER --expert FOLDER --antiexpert FOLDER --task triviaqa \\
        --rows test.jsonl --dtype bfloat16

(a) the sequential loop (sequential.py), (b) ours without drafts, (c) ours with drafts, also with
their number left to `auto`, (d) the base alone through transformers' generate, in static batches
too. In float32 (a), (b) and (c) must give the same tokens; in other types rounding may differ
with the shape of a forward, and the share of equal rows is printed. Times include the prefill.
Ratios are of tokens per second, the median over the rounds; a round runs each system once.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from transformers import GenerationConfig, PreTrainedModel

from benchmarks.record import record, where
from benchmarks.sequential import sequential
from data import TASKS
from decode.engine.engine import Engine, generate
from decode.engine.request import Request
from decode.engine.stats import DecodingStats
from decode.engine.stops import Stops
from decode.models.adapters import adapter_base
from decode.models.language_model import LanguageModel
from decode.models.model_source import ModelSource
from decode.models.pair import load_pair, load_tuned
from decode.models.prompts import RoleTokenizers
from decode.models.sources import load_tokenizer, load_weights, resolve_device
from decode.models.steered import Steered
from decode.models.vocab import align

Rows = list[list[int]]
MINI = Path("data/mini")


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    device = resolve_device(arguments.device)
    base, expert, antiexpert = (
        ModelSource(name, dtype=arguments.dtype)
        for name in (arguments.base, arguments.expert, arguments.antiexpert)
    )
    tokenizers = RoleTokenizers(*map(load_tokenizer, (base, expert, antiexpert)))
    large = load_weights(base, device)
    pair = load_pair(expert, antiexpert, device)
    aligned = align(tokenizers.base, tokenizers.expert, tokenizers.antiexpert)
    steered = Steered(LanguageModel(large, tokenizers.base), pair, aligned, arguments.alpha)
    whole_expert = load_tuned(expert, device).model  # the loop knows no shared weights
    whole_antiexpert = load_weights(antiexpert, device)

    task = TASKS[arguments.task]
    rows = task.eval_rows(arguments.rows, arguments.num_prompts)
    prompts = [tokenizers.encode(row.prompt) for row in rows]
    if arguments.lengths is None:
        stops, strings = Stops(steered.eos_ids, task.stop, tokenizers.base), task.stop
        limits = [arguments.max_new_tokens] * len(prompts)
    else:
        stops, strings = Stops(frozenset(), (), tokenizers.base), ()
        shortest, longest = map(int, arguments.lengths.split(":"))
        draw = random.Random(0)
        limits = [draw.randint(shortest, longest) for _ in prompts]
    requests = [
        Request(number, prompt, limit, strings)
        for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
    ]
    batch_size = arguments.batch_size
    stats: dict[str, DecodingStats] = {}

    def ours(num_draft_tokens) -> Callable[[], Rows]:
        def run() -> Rows:
            counts = stats[f"ours, drafts {num_draft_tokens}"] = DecodingStats()
            engine = Engine(
                steered, tokenizers.base, batch_size, num_draft_tokens, stops.ids, counts
            )
            done = {completion.name: completion for completion in generate(engine, requests)}
            return [list(done[request.name].token_ids) for request in requests]

        return run

    base_ids = [list(prompt.base) for prompt in prompts]
    systems: dict[str, Callable[[], Rows]] = {
        "sequential loop": lambda: sequential(
            (large, whole_expert, whole_antiexpert),
            base_ids,
            limits,
            arguments.alpha,
            batch_size,
            stops,
        ),
        **{f"ours, drafts {k}": ours(k) for k in (0, *arguments.drafts, "auto")},
        "base, generate": lambda: generate_base(large, base_ids, limits, batch_size, stops),
    }
    result = measure(systems, arguments.num_rounds, device)
    check_tokens(systems, result["tokens"], arguments.dtype)
    measured = {
        "prompt_tokens": [len(ids) for ids in base_ids],
        "completion_tokens": {name: sum(map(len, rows)) for name, rows in result["tokens"].items()},
        "seconds": result["seconds"],
        "ratios": ratios(result),
        "equal_rows": equal_rows(result["tokens"]),
        "stats": {name: counts.summary() for name, counts in stats.items()},
    }
    print_table(record(arguments, measured))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=str(MINI / "large"))
    parser.add_argument("--expert", default="runs/mini-facts/expert", help="weights or adapter")
    parser.add_argument("--antiexpert", help="the model an adapter names, if left out")
    parser.add_argument("--task", default="facts", choices=TASKS, help="where prompts come from")
    parser.add_argument("--rows", help="the task's evaluation rows (.jsonl)")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--lengths", help="MIN:MAX tokens a row, drawn; nothing else ends it")
    parser.add_argument("--drafts", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    if not Path(arguments.expert).exists() and arguments.expert.startswith("runs/"):
        parser.error(f"{arguments.expert} is not there; `make demo` trains it, or name another")
    if arguments.antiexpert is None:
        arguments.antiexpert = adapter_base(ModelSource(arguments.expert)).name
    return arguments


@torch.inference_mode()
def generate_base(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    limits: Sequence[int],
    batch_size: int,
    stops: Stops,
) -> Rows:
    """The base alone in static batches, each as long as its longest row."""
    completions: Rows = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        limit = max(limits[first : first + batch_size])
        config = GenerationConfig(
            max_new_tokens=limit,
            min_new_tokens=None if stops.ids else limit,
            do_sample=False,
            eos_token_id=sorted(stops.ids) or None,
            pad_token_id=0,
        )
        out = model.generate(
            ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
        for tokens, own_limit in zip(
            out[:, width:].tolist(), limits[first : first + batch_size], strict=True
        ):
            end = next((i for i, token in enumerate(tokens) if token in stops.ids), own_limit)
            completions.append(tokens[: min(end + 1, own_limit)])
    return completions


def measure(
    systems: dict[str, Callable[[], Rows]], num_rounds: int, device: str
) -> dict[str, dict]:
    """Seconds of every round and the last round's tokens, by system; the first round is warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    tokens: dict[str, Rows] = {}
    for number in range(num_rounds + 1):
        for name, run in systems.items():
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            tokens[name] = run()
            if number:
                seconds[name].append(time.perf_counter() - start)
        print(f"round {number} of {num_rounds} done", file=sys.stderr)
    return {"seconds": seconds, "tokens": tokens}


def check_tokens(systems: dict[str, Callable], tokens: dict[str, Rows], dtype: str) -> None:
    proxies = [name for name in systems if name != "base, generate"]
    different = [name for name in proxies if tokens[name] != tokens[proxies[0]]]
    if different and dtype == "float32":
        sys.exit(f"error: other tokens than the sequential loop's: {', '.join(different)}")


def equal_rows(tokens: dict[str, Rows]) -> dict[str, float]:
    """Share of rows equal to the sequential loop's."""
    reference = tokens["sequential loop"]
    return {
        name: sum(a == b for a, b in zip(rows, reference, strict=True)) / len(rows)
        for name, rows in tokens.items()
        if name != "base, generate"
    }


def ratios(result: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Median over rounds of tokens per second over that of the loop, and over that of the base."""
    rates = {
        name: [sum(map(len, result["tokens"][name])) / s for s in seconds]
        for name, seconds in result["seconds"].items()
    }
    return {
        f"over {reference}": {
            name: statistics.median(
                ours / theirs for ours, theirs in zip(own, rates[reference], strict=True)
            )
            for name, own in rates.items()
        }
        for reference in ("sequential loop", "base, generate")
    }


def print_table(report: dict) -> None:
    settings = report["settings"]
    lengths = report["prompt_tokens"]
    print(
        f"\n{where(report)}; {settings['dtype']}, batch "
        f"{settings['batch_size']}, {len(lengths)} prompts of {min(lengths)} to {max(lengths)} "
        f"tokens, medians of {settings['num_rounds']} rounds\n"
    )
    print(f"{'':22}{'seconds':>9}{'tokens/s':>10}{'x loop':>8}{'x base':>8}", end="")
    print(f"{'acceptance':>12}{'tokens/verify':>15}{'equal rows':>12}")
    for name, seconds in report["seconds"].items():
        median = statistics.median(seconds)
        tokens = report["completion_tokens"][name]
        loop = report["ratios"]["over sequential loop"][name]
        base = report["ratios"]["over base, generate"][name]
        print(f"{name:22}{median:9.2f}{tokens / median:10.1f}{loop:8.2f}{base:8.2f}", end="")
        counts = report["stats"].get(name, {})
        rate, verify = counts.get("acceptance_rate"), counts.get("tokens_per_verify")
        print(f"{'' if rate is None else f'{rate:.2f}':>12}", end="")
        print(f"{'' if verify is None else f'{verify:.2f}':>15}", end="")
        equal = report["equal_rows"].get(name)
        print(f"{'' if equal is None else f'{equal:.2f}':>12}")


if __name__ == "__main__":
    main()
