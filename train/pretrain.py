"""Entry: makes the mini family, one tokenizer and a few small Llamas from one generated stream.

    python train/pretrain.py recipes/mini/pretrain.yaml [key=value ...]

Every model sees the same batches in the same order: a batch is a function of the seed and the step,
so a killed run continues from its last checkpoint with the documents it would have seen. Matrices
are trained by Muon, embeddings and norms by AdamW.
"""

import json
import logging
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from data.mini.stream import SHARES, Stream

logger = logging.getLogger("pretrain")

EOS, BOS, PAD = "<|end|>", "<|begin|>", "<|pad|>"
IGNORED = -100  # the label transformers leaves out of the loss


class ModelShape(BaseModel):
    """Size of one Llama; keys as transformers.LlamaConfig names them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt


class PretrainRecipe(BaseModel):
    """The whole of a pretraining recipe; rates are peak values, reached after `warmup_steps`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int
    output_dir: Path
    """Each model goes to <output_dir>/<name>."""
    work_dir: Path
    """Checkpoints and logs; can be deleted afterwards."""
    models: dict[str, ModelShape]
    only: list[str]
    """Which of `models` this run makes, in order."""
    vocab_size: PositiveInt
    num_steps: PositiveInt
    rows_per_step: PositiveInt
    row_tokens: PositiveInt
    warmup_steps: PositiveInt
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    weight_decay: float
    checkpoint_steps: PositiveInt


def load_recipe(path: str, overrides: list[str]) -> PretrainRecipe:
    """The recipe in `path` with dotted `overrides`. Raises ValueError, naming file and key."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such recipe (looked in {Path.cwd()})")
    merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(overrides))
    try:
        recipe = PretrainRecipe.model_validate(OmegaConf.to_container(merged))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {key}: {first['msg']}, found {first['input']!r:.80}") from None
    unknown = set(recipe.only) - set(recipe.models)
    if unknown:
        raise ValueError(f"{path}: only: {sorted(unknown)} not in models: {sorted(recipe.models)}")
    return recipe


def build_tokenizer(documents: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of exactly `vocab_size` entries; digits stay apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"vocab_size: {vocab_size} asked for, {tokenizer.get_vocab_size()} found in the stream; "
            "ask for fewer"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        bos_token=BOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def batch_ids(
    stream: Stream, tokenizer: PreTrainedTokenizerFast, recipe: PretrainRecipe, step: int
) -> Tensor:
    """The (rows, tokens) int64 batch of `step`: whole documents, each ended by EOS, then padding.

    A document goes to the first row with room for it, so that no row starts inside one.
    """
    rng = random.Random(f"stream-{recipe.seed}-{step}")
    rows: list[list[int]] = [[] for _ in range(recipe.rows_per_step)]
    num_misses = 0
    while num_misses < 20:
        text = stream.document(rng, step / recipe.num_steps)
        ids = [*tokenizer.backend_tokenizer.encode(text).ids, tokenizer.eos_token_id]
        room = recipe.row_tokens - len(ids)
        row = next((row for row in rows if len(row) <= room), None)
        if row is None:
            num_misses += 1
        else:
            row.extend(ids)
    padded = [row + [tokenizer.pad_token_id] * (recipe.row_tokens - len(row)) for row in rows]
    return torch.tensor(padded)


def rate(recipe: PretrainRecipe, step: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then linear decay to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return (recipe.num_steps - step) / (recipe.num_steps - recipe.warmup_steps)


def build_model(shape: ModelShape, tokenizer: PreTrainedTokenizerFast, context: int):
    """A fresh Llama with tied embeddings, in float32."""
    config = LlamaConfig(
        **shape.model_dump(),
        vocab_size=len(tokenizer),
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: LlamaForCausalLM, recipe: PretrainRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    layers = [item for item in model.model.layers.parameters() if item.ndim == 2]
    chosen = {id(item) for item in layers}
    others = [item for item in model.parameters() if id(item) not in chosen]
    muon = torch.optim.Muon(layers, lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    adamw = torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adamw]


def train_model(
    name: str, stream: Stream, tokenizer: PreTrainedTokenizerFast, recipe: PretrainRecipe
) -> None:
    """Train models[name] and save it; continues from the checkpoint in `work_dir` if there is one."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.models[name], tokenizer, recipe.row_tokens)
    optimizers = build_optimizers(model, recipe)
    checkpoint = recipe.work_dir / f"{name}.pt"
    start, num_tokens, cpu_s = 0, 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, num_tokens, cpu_s = state["step"], state["num_tokens"], state["cpu_s"]
        logger.info("%s: continues at step %d", name, start)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in build_optimizers(model, recipe)]
    clock = time.process_time() - cpu_s
    with (recipe.work_dir / f"{name}.jsonl").open("a") as log:
        for step in tqdm(range(start, recipe.num_steps), name, disable=not sys.stderr.isatty()):
            ids = batch_ids(stream, tokenizer, recipe, step)
            labels = ids.masked_fill(ids == tokenizer.pad_token_id, IGNORED)
            # bfloat16 matrix products: 1.4 times as fast on a core with avx512_bf16.
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                optimizer.param_groups[0]["lr"] = peak * rate(recipe, step)
                optimizer.step()
                optimizer.zero_grad()
            num_tokens += int((labels != IGNORED).sum())
            if (step + 1) % 50 == 0 or step + 1 == recipe.num_steps:
                record = {"step": step + 1, "num_tokens": num_tokens, "loss": loss.item()}
                log.write(json.dumps(record | {"cpu_s": time.process_time() - clock}) + "\n")
                log.flush()
            if (step + 1) % recipe.checkpoint_steps == 0 or step + 1 == recipe.num_steps:
                state = {
                    "model": model.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "step": step + 1,
                    "num_tokens": num_tokens,
                    "cpu_s": time.process_time() - clock,
                }
                torch.save(state, checkpoint.with_suffix(".tmp"))
                os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    losses = losses_by_kind(model, stream, tokenizer, recipe)
    logger.info("%s: %d tokens, loss by kind %s", name, num_tokens, losses)
    model.to(torch.bfloat16).save_pretrained(recipe.output_dir / name)
    tokenizer.save_pretrained(recipe.output_dir / name)


@torch.no_grad()
def losses_by_kind(model, stream, tokenizer, recipe: PretrainRecipe) -> dict[str, float]:
    """Mean loss in nats a token on 64 fresh documents of each kind, one a row."""
    losses = {}
    for kind in SHARES:
        rng = random.Random(f"losses-{recipe.seed}-{kind}")
        texts = [stream.of_kind(kind, rng) + EOS for _ in range(64)]
        ids = tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
        labels = ids.masked_fill(ids == tokenizer.pad_token_id, IGNORED)
        losses[kind] = round(model(input_ids=ids, labels=labels, use_cache=False).loss.item(), 4)
    return losses


def main() -> None:
    """Recipe, logging, tokenizer, then one model after the other."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python train/pretrain.py RECIPE.yaml [key=value ...]")
    recipe = load_recipe(sys.argv[1], sys.argv[2:])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit("pretrain.py trains in one process: launch it with --num_processes 1")
    recipe.work_dir.mkdir(parents=True, exist_ok=True)

    stream = Stream()
    saved = recipe.work_dir / "tokenizer"
    if not saved.is_dir():
        rng = random.Random(f"tokenizer-{recipe.seed}")
        documents = (stream.document(rng, 1.0) for _ in range(20_000))
        build_tokenizer(documents, recipe.vocab_size).save_pretrained(saved)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(saved)

    for name in recipe.only:
        train_model(name, stream, tokenizer, recipe)


if __name__ == "__main__":
    main()
