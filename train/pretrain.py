"""Entry: makes the mini family, one tokenizer and a few small Llamas from one generated stream.

    python train/pretrain.py recipes/mini/pretrain.yaml [key=value ...]

It runs in one CPU process. A killed run continues from its last checkpoint.
"""

import argparse
import logging
import os
import random

import torch
from tokenizers import Tokenizer

from data.mini.stream import Stream
from data.mini.tokenizer import build_tokenizer, for_transformers
from decode.jobs.disk import check_writable
from decode.jobs.faults import doing
from decode.jobs.terminal import AboveProgress
from decode.stage.command import HelpFormatter, entry, user_errors
from train.divergence import Diverged
from train.pretraining.loop import losses_by_kind, train_model
from train.pretraining.pretrain_recipe import load_recipe

logger = logging.getLogger("pretrain")

TOKENIZER_DOCUMENTS = 20_000


@entry(Diverged)
def main() -> None:
    """Recipe, logging, tokenizer, then one model after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("recipe", help="a YAML file, such as recipes/mini/pretrain.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, applied in order")
    arguments = parser.parse_args()
    with user_errors(ValueError):
        with doing(f"reading {arguments.recipe}"):
            recipe = load_recipe(arguments.recipe, arguments.overrides)
        for key in ("output_dir", "work_dir"):
            check_writable(key, getattr(recipe, key) / "config.json")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("pretraining runs in one process; launch with --num_processes 1")
    log = {"level": logging.INFO, "format": "%(asctime)s %(message)s"}
    logging.basicConfig(**log, handlers=[AboveProgress()])

    recipe.work_dir.mkdir(parents=True, exist_ok=True)
    stream = Stream()
    tokenizer_file = recipe.work_dir / "tokenizer.json"
    if not tokenizer_file.is_file():
        rng = random.Random(f"tokenizer-{recipe.seed}")
        documents = (stream.document(rng, 0.5) for _ in range(TOKENIZER_DOCUMENTS))
        build_tokenizer(documents, recipe.vocab_size).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    for name in recipe.only:
        with doing(f"pretraining {name}"):
            model = train_model(name, stream, tokenizer, recipe)
        losses = losses_by_kind(model, stream, tokenizer, recipe)
        logger.info("%s: loss by kind of document: %s", name, losses)
        model.to(torch.bfloat16).save_pretrained(recipe.output_dir / name)  # pyright: ignore
        for_transformers(tokenizer, recipe.row_tokens).save_pretrained(recipe.output_dir / name)


if __name__ == "__main__":
    main()
