"""One batch of prompts decoded by every system in turns: what decode_gpu.py measures."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig

from benchmarks.random_models import CoinSteered
from benchmarks.sequential import sequential
from decode.engine.engine import Engine, generate
from decode.engine.request import Request, RolePrompt
from decode.engine.stats import DecodingStats
from decode.engine.stops import Stops
from decode.models.guard import Guarded

SYSTEMS = ("loop", "ours", "guard", "base", "generate", "compiled")


class Batch:
    """What is measured with some prompts that are decoded together."""

    def __init__(
        self, steered: CoinSteered, models, prompts, arguments: argparse.Namespace, tokenizer
    ) -> None:
        self.steered, self.models, self.prompts = steered, models, prompts
        self.arguments, self.tokenizer = arguments, tokenizer
        self.num_new, self.device = arguments.new_tokens, steered.device
        self.requests = [
            Request(n, RolePrompt.same(ids), self.num_new) for n, ids in enumerate(prompts)
        ]
        self.rounds: dict[str, dict[str, Any]] = {}
        self.rates: dict[str, list[float]] = {}

    def measure(self) -> None:
        """Tokens per second of every system and turn, and the parts of our rounds."""
        self._take_turns(self.systems())

    def measure_compiled(self) -> None:
        """The same of the base compiled, alone."""
        self._take_turns({"base, compiled": lambda: self.base_alone("static")})

    def _take_turns(self, systems: dict[str, Callable[[], int]]) -> None:
        self.rates |= {name: [] for name in systems}
        for number in range(self.arguments.num_rounds + 1):  # the first is not counted
            for name, run in systems.items():
                synchronize(self.device)
                start = time.perf_counter()
                num_tokens = run()
                synchronize(self.device)
                if number:
                    self.rates[name].append(num_tokens / (time.perf_counter() - start))

    def report(self) -> dict[str, Any]:
        """All that was measured, with ratios."""
        over = {
            f"over {other}": {
                name: ratio(own, self.rates[other]) for name, own in self.rates.items()
            }
            for other in ("loop", "base, generate", "base, compiled")
            if other in self.rates
        }
        return {"tokens_per_second": self.rates, "ratios": over, "rounds": self.rounds}

    def systems(self) -> dict[str, Callable[[], int]]:
        chosen, drafts = self.arguments.systems, [0, *self.arguments.drafts, "auto"]
        found: dict[str, Callable[[], int]] = {}
        if "loop" in chosen:
            found["loop"] = self.loop
        if "ours" in chosen:
            found |= {f"ours, drafts {k}": self.ours(k, has_guard=True) for k in drafts}
        if "guard" in chosen:
            k = max(self.arguments.drafts, default=0)
            found[f"ours, drafts {k}, no guard"] = self.ours(k, has_guard=False)
        if "base" in chosen:
            found["base, ours"] = self.base_through_engine
        if "generate" in chosen:
            found["base, generate"] = lambda: self.base_alone(None)
        return found

    def loop(self) -> int:
        limits, no_stops = [self.num_new] * len(self.prompts), Stops(frozenset(), (), None)
        rows = sequential(self.models, self.prompts, limits, 1.0, len(self.prompts), no_stops)
        return sum(map(len, rows))

    def ours(self, num_draft_tokens, has_guard: bool) -> Callable[[], int]:
        name = f"ours, drafts {num_draft_tokens}" + ("" if has_guard else ", no guard")

        def run() -> int:
            stats, before = DecodingStats(), self.steered.num_rounds
            model = Guarded(self.steered) if has_guard else self.steered
            num_tokens = self.decode(model, num_draft_tokens, stats)
            if has_guard:
                model.check()  # as at the end of every run
            num_rounds = self.steered.num_rounds - before
            self.rounds[name] = {"num_rounds": num_rounds, "stats": stats.summary()}
            parts = {part: stats.seconds[part] for part in ("draft", "verify", "choose")}
            parts["host"] = stats.wall_s - sum(parts.values()) - stats.seconds["prefill"]
            self.rounds[name]["round_s"] = {
                part: seconds / num_rounds for part, seconds in parts.items()
            }
            return num_tokens

        return run

    def decode(self, model, num_draft_tokens, stats=None) -> int:
        capacity, no_eos = len(self.requests), frozenset()
        engine = Engine(model, self.tokenizer, capacity, num_draft_tokens, no_eos, stats)
        return sum(len(one.token_ids) for one in generate(engine, self.requests))

    def base_through_engine(self) -> int:
        return self.decode(self.steered.base, 0)

    @torch.inference_mode()
    def base_alone(self, cache: str | None) -> int:
        config = GenerationConfig(
            max_new_tokens=self.num_new,
            min_new_tokens=self.num_new,
            do_sample=False,
            pad_token_id=0,
            cache_implementation=cache,
            compile_config=CompileConfig(dynamic=False) if self.device.type == "cuda" else None,
        )
        longest = max(map(len, self.prompts))
        padded = [[0] * (longest - len(ids)) + ids for ids in self.prompts]
        is_token = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in self.prompts]
        inputs, mask = torch.tensor([padded, is_token], device=self.device)
        out = self.models[0].generate(inputs, attention_mask=mask, generation_config=config)
        return out[:, longest:].numel()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def ratio(own: list[float], theirs: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(own, theirs, strict=True))
