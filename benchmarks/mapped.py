"""What another tokenizer costs: the CPU time of a token, over that of models with one tokenizer.

    python benchmarks/mapped.py [--batch-size 1] [--num-rounds 9]

Expert and anti-expert are one model, so that all ways emit the base's own tokens. The small model
with another tokenizer has the small model's shape, random weights, and a tokenizer that is trained
here on the task's prompts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

# A script's own folder comes first on the path, where this file would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from data import TASKS
from decode import ProxyTuned


def main() -> None:
    """Time every way in turns and print the medians."""
    arguments = _arguments()
    torch.set_num_threads(1)
    texts = [row.prompt for row in TASKS[arguments.task].eval_rows(arguments.rows)]
    prompts = texts[: arguments.num_prompts]
    with tempfile.TemporaryDirectory() as folder:
        other = _other_small(arguments.small, texts, folder)
        ways = {
            "identical": (arguments.small, "identical"),
            "mapped, the same tokens": (arguments.small, "mapped"),
            "mapped, another tokenizer": (other, "mapped"),
            "bytes, the same tokens": (arguments.small, "bytes"),
            "bytes, another tokenizer": (other, "bytes"),
        }
        steered = {
            name: ProxyTuned.from_pretrained(
                arguments.base, small, small, device="cpu", vocabulary=vocabulary
            )
            for name, (small, vocabulary) in ways.items()
        }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    num_tokens = dict.fromkeys(ways, 0)
    for number in range(arguments.num_rounds + 1):
        for name, model in steered.items():
            start = time.process_time()
            done = model.generate(
                prompts,
                arguments.num_tokens,
                batch_size=arguments.batch_size,
                num_draft_tokens=0,
            )
            seconds = time.process_time() - start
            num_tokens[name] = sum(len(one.token_ids) for one in done)
            if number:  # the first round warms up
                taken[name].append(seconds / num_tokens[name])
    print("| way | ms a token | CPU time over identical: fastest | median |\n|---|---|---|---|")
    for name, own in taken.items():
        ratios = [a / b for a, b in zip(own, taken["identical"], strict=True)]
        fastest, middle = min(own) / min(taken["identical"]), statistics.median(ratios)
        print(f"| {name} | {1000 * min(own):.2f} | {fastest:.2f} | {middle:.2f} |")


def _other_small(small: str, texts: list[str], folder: str) -> str:
    """A model of the shape of `small` with a tokenizer trained on `texts`, saved in `folder`."""
    config = AutoConfig.from_pretrained(small)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    config.eos_token_id, config.bos_token_id = wrapped.eos_token_id, None
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--base", default="data/mini/large")
    parser.add_argument("--small", default="data/mini/small")
    parser.add_argument("--task", default="word_problems")
    parser.add_argument("--rows", help="of the task; its own if left out")
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--num-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--num-rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
