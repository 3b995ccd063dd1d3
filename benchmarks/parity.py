"""Whether a GPU gives the CPU's tokens with the mini models, whatever was decoded before.

    python benchmarks/parity.py runs/mini-facts/expert                 # after `make demo`
    python benchmarks/parity.py runs/mini-facts/expert --device cpu    # batches and drafts alone

In float32, without TF32: alphas, drafts, batch sizes and samplings take turns in one process. Each
line gives the rows equal to the CPU's, decoded plainly; any other row is an error.
"""

import argparse
import json
import sys
import time
from itertools import product
from pathlib import Path

# A script's own folder comes first on the path, where decode.py would be taken for the package.
sys.path[0] = ROOT = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.record import record
from decode import ModelSource, ProxyTuned

SETTINGS = [(0, 100), (4, 7), ("auto", 100), (4, 1), (0, 33), (2, 32)]  # drafts, batch size
MOST_AT_SMALL_BATCHES = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("expert", help="an adapter on the small mini model, or whole weights")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--num-rows", type=int, default=400)
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    lines = Path(ROOT, "data/mini/facts/test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[: arguments.num_rows]]
    prompts = [f"Question: {row['question']}\nAnswer:" for row in rows]
    here, there = (load(arguments.expert, device) for device in ("cpu", arguments.device))
    settings = []
    for alpha, temperature in product((1.0, 0.5), (0.0, 1.0)):
        expected = tokens(here, prompts, alpha, temperature, 0, 100)
        for num_drafts, batch_size in SETTINGS:
            some = prompts if batch_size > 10 else prompts[:MOST_AT_SMALL_BATCHES]
            start = time.perf_counter()
            found = tokens(there, some, alpha, temperature, num_drafts, batch_size)
            seconds = time.perf_counter() - start
            num_equal = sum(a == b for a, b in zip(found, expected, strict=False))
            name = (
                f"alpha {alpha}, temperature {temperature}, drafts {num_drafts}, batch {batch_size}"
            )
            print(f"{name:58} {num_equal:4} of {len(some):4} rows equal  {seconds:6.2f} s")
            settings.append({"setting": name, "num_equal": num_equal, "num_rows": len(some)})
    record(arguments, {"settings_tried": settings})
    if any(one["num_equal"] < one["num_rows"] for one in settings):
        sys.exit(f"error: {arguments.device} does not give the CPU's tokens")


def load(expert: str, device: str) -> ProxyTuned:
    folders = (f"{ROOT}/data/mini/large", expert, f"{ROOT}/data/mini/small")
    sources = (ModelSource(folder, dtype="float32") for folder in folders)  # stored in bfloat16
    return ProxyTuned.from_pretrained(*sources, device=device)


def tokens(model: ProxyTuned, prompts, alpha, temperature, num_drafts, batch_size) -> list:
    done = model.generate(
        prompts,
        20,
        stop=["\n"],
        alpha=alpha,
        temperature=temperature,
        num_draft_tokens=num_drafts,
        batch_size=batch_size,
    )
    return [completion.token_ids for completion in done]


if __name__ == "__main__":
    main()
