"""Speed at real sizes with random weights: real compute, acceptance forced to a given rate.

    python benchmarks/decode_gpu.py --sizes 13b 1b --acceptance 0.8       # one GPU of 80 GB
    python benchmarks/decode_gpu.py --sizes tiny tinier --device cpu      # does it run at all

Random models never agree, so drafts are judged by a coin of the given rate instead: the coin's side
is written into the verified logits, and everything else (three models, their caches, the
combination, the choice, the bookkeeping) runs as it does in earnest. Measured in turns: the
sequential loop, ours without drafts, ours with drafts (a number each, and auto), the base alone
through transformers' generate. Also the time of one plain step over the weight-read limit: the
bytes of all weights that a step reads, over the bandwidth of a large copy measured here (which
reads and writes every byte once).
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

# A script's own folder comes first on the path, where decode.py would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from benchmarks.record import record, where
from benchmarks.sequential import sequential
from decode.engine.engine import Engine, generate
from decode.engine.request import Request, RolePrompt
from decode.engine.stats import DecodingStats
from decode.engine.stops import Stops
from decode.models.language_model import LanguageModel
from decode.models.pair import TwoModels
from decode.models.steered import Steered
from decode.models.vocab import Vocabulary

# hidden, MLP, layers, heads, key-value heads: those of Llama-2/3 and Qwen2.5 of about that size
SIZES = {
    "32b": (5120, 27648, 64, 40, 8),
    "13b": (5120, 13824, 40, 40, 40),
    "8b": (4096, 14336, 32, 32, 8),
    "1.5b": (1536, 8960, 28, 12, 2),
    "1b": (2048, 8192, 16, 32, 8),
    "0.5b": (896, 4864, 24, 14, 2),
    "tiny": (256, 512, 4, 4, 2),
    "tinier": (64, 128, 2, 4, 2),
}


class CoinSteered(Steered):
    """Steered, but whether a draft is right is decided by a coin."""

    acceptance = 0.0

    def read(self, rows, drafts: Tensor) -> Tensor:
        logits = super().read(rows, drafts)
        coins = torch.rand(drafts.shape, device=logits.device, generator=self.generator)
        sides = torch.where(coins < self.acceptance, 1e9, -1e9)
        logits[:, : drafts.shape[1]].scatter_(-1, drafts[..., None], sides[..., None])
        return logits


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype)
    large_size, small_size = arguments.sizes
    large, expert, antiexpert = (
        random_model(size, arguments.vocab, device, dtype)
        for size in (large_size, small_size, small_size)
    )
    tokenizer = numbered_tokenizer(arguments.vocab)
    pair = TwoModels(LanguageModel(expert, tokenizer), LanguageModel(antiexpert, tokenizer))
    steered = CoinSteered(LanguageModel(large, tokenizer), pair, Vocabulary(arguments.vocab), 1.0)
    steered.acceptance = arguments.acceptance
    steered.generator = torch.Generator(device).manual_seed(0)

    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, arguments.prompt_tokens)
    ids = torch.randint(arguments.vocab, shape, generator=generator).tolist()
    limits = [arguments.new_tokens] * len(ids)
    requests = [Request(n, RolePrompt.same(row), arguments.new_tokens) for n, row in enumerate(ids)]
    no_stops = Stops(frozenset(), (), tokenizer)
    stats: dict[str, DecodingStats] = {}

    def ours(num_draft_tokens) -> Callable[[], int]:
        name = f"ours, drafts {num_draft_tokens}"

        def run() -> int:
            stats[name] = DecodingStats()
            engine = Engine(
                steered, tokenizer, len(ids), num_draft_tokens, no_stops.ids, stats[name]
            )
            return sum(len(completion.token_ids) for completion in generate(engine, requests))

        return run

    def loop() -> int:
        rows = sequential((large, expert, antiexpert), ids, limits, 1.0, len(ids), no_stops)
        return sum(map(len, rows))

    systems = {
        "sequential loop": loop,
        **{f"ours, drafts {k}": ours(k) for k in (0, *arguments.drafts, "auto")},
        "base, generate": lambda: base_alone(large, ids, arguments.new_tokens),
    }
    rates: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(arguments.num_rounds + 1):
        for name, run in systems.items():
            synchronize(device)
            start = time.perf_counter()
            num_tokens = run()
            synchronize(device)
            if number:
                rates[name].append(num_tokens / (time.perf_counter() - start))
    step_s = len(ids) / statistics.median(rates["ours, drafts 0"])
    limit_s = weight_bytes(large, expert, antiexpert) / copy_bandwidth(device)
    measured = {
        "parameters": {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("base", large), ("expert", expert))
        },
        "tokens_per_second": rates,
        "over_loop": {name: ratio(own, rates["sequential loop"]) for name, own in rates.items()},
        "over_base": {name: ratio(own, rates["base, generate"]) for name, own in rates.items()},
        "plain_step_s": step_s,
        "weight_read_limit_s": limit_s,
        "stats": {name: counts.summary() for name, counts in stats.items()},
    }
    print_table(record(arguments, measured))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs=2, default=["13b", "1b"], choices=SIZES, metavar="SIZE")
    parser.add_argument("--vocab", type=int, default=32_000)
    parser.add_argument(
        "--acceptance", type=float, default=0.8, help="chance that a draft is accepted"
    )
    parser.add_argument("--drafts", type=int, nargs="*", default=[2, 4, 6])
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--json", help="write everything measured to this file")
    return parser.parse_args()


def random_model(
    size: str, vocab: int, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    hidden, mlp, layers, heads, kv_heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def numbered_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer that is never asked for text, of the right size."""
    words = {str(number): number for number in range(vocab)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "0")))


@torch.inference_mode()
def base_alone(model: PreTrainedModel, ids: list[list[int]], new_tokens: int) -> int:
    config = GenerationConfig(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0
    )
    inputs = torch.tensor(ids, device=model.device)
    out = model.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=config)
    return out[:, inputs.shape[1] :].numel()


def weight_bytes(*parts: PreTrainedModel) -> int:
    """Bytes of the weights that one step reads: all but the embedding tables."""
    total = 0
    for model in parts:
        total += sum(p.numel() * p.element_size() for p in model.parameters())
        table = model.get_input_embeddings().weight
        total -= table.numel() * table.element_size()
    return total


def copy_bandwidth(device: torch.device, num_bytes: int = 1 << 30) -> float:
    """Bytes a second that a large copy reads and writes, the best of ten."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * num_bytes / min(seconds)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def ratio(own: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, theirs, strict=True))


def print_table(report: dict) -> None:
    settings = report["settings"]
    sizes = " / ".join(f"{count / 1e6:,.1f}M" for count in report["parameters"].values())
    print(
        f"{where(report)}; {sizes} random weights, {settings['dtype']}, "
        f"batch {settings['batch_size']}, {settings['prompt_tokens']} + {settings['new_tokens']} "
        f"tokens, acceptance forced to {settings['acceptance']}, "
        f"medians of {settings['num_rounds']} rounds\n"
    )
    print(f"{'':22}{'tokens/s':>10}{'x loop':>8}{'x base':>8}{'acceptance':>12}{'per verify':>12}")
    for name, rates in report["tokens_per_second"].items():
        counts = report["stats"].get(name, {})
        rate, verify = counts.get("acceptance_rate"), counts.get("tokens_per_verify")
        print(
            f"{name:22}{statistics.median(rates):10.1f}{report['over_loop'][name]:8.2f}"
            f"{report['over_base'][name]:8.2f}{'' if rate is None else f'{rate:.2f}':>12}"
            f"{'' if verify is None else f'{verify:.2f}':>12}"
        )
    step, limit = report["plain_step_s"], report["weight_read_limit_s"]
    print(
        f"\nplain step {step * 1e3:.2f} ms, weight-read limit {limit * 1e3:.2f} ms: "
        f"{step / limit:.2f}x"
    )


if __name__ == "__main__":
    main()
