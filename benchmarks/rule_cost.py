"""What a rule costs: the CPU time of a token under each rule, over that under the formula.

    python benchmarks/rule_cost.py --expert runs/mini-gsm/expert [--batch-size 1] [--num-rounds 9]

Every rule in turn completes the same prompts with as many tokens, without drafts: rules choose
other tokens, and the numbers of drafts that are right would hide what the arithmetic costs.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from data import TASKS
from decode import Alpha, ProxyTuned, Rule

RULES = {
    "formula": Rule(),
    "base or expert .1": Rule("base_or_expert", 0.1),
    "expert .1": Rule("expert", 0.1),
    "sure .9": Rule(sure_base=0.9),
    "by doubt": Rule(by_doubt=True),
    "warm-up 8": Rule(warmup_tokens=8),
    "half-life 32": Rule(half_life_tokens=32),
    "no anti-expert": Rule(antiexpert=False),
}


def main() -> None:
    """Time every rule in turns and print the medians."""
    arguments = _arguments()
    torch.set_num_threads(1)
    model = ProxyTuned.from_pretrained(
        arguments.base, arguments.expert, arguments.antiexpert, device="cpu"
    )
    rows = TASKS[arguments.task].eval_rows(arguments.rows, arguments.num_prompts)
    prompts = [row.prompt for row in rows]
    ends = sorted(model.steered.eos_ids)
    taken: dict[str, list[float]] = {name: [] for name in RULES}
    for number in range(arguments.num_rounds + 1):
        for name, rule in RULES.items():
            start = time.process_time()
            done = model.generate(
                prompts,
                arguments.num_tokens,
                alpha=Alpha(1.0, rule),
                banned_ids=ends,
                batch_size=arguments.batch_size,
                num_draft_tokens=0,
            )
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
            num_tokens = sum(len(one.token_ids) for one in done)
            assert num_tokens == arguments.num_tokens * len(prompts), "a row ended early"
    print(
        "| rule | CPU time over the formula's: fastest rounds | median of rounds |\n|---|---|---|"
    )
    fastest = min(taken["formula"])
    for name, own in taken.items():
        ratios = [one / plain for one, plain in zip(own, taken["formula"], strict=True)]
        middle = statistics.median(ratios)
        print(f"| {name} | {min(own) / fastest:.3f} | {middle:.3f} |")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--base", default="data/mini/large")
    parser.add_argument("--expert", required=True)
    parser.add_argument("--antiexpert", default="data/mini/small")
    parser.add_argument("--task", default="word_problems")
    parser.add_argument("--rows", help="of the task; its own if left out")
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--num-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
