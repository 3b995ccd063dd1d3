"""Entry: makes the mini family, one tokenizer and a few small Llamas from one generated stream.

    python train/pretrain.py recipes/mini/pretrain.yaml [key=value ...]

Every model sees the same batches in the same order: a batch is a function of the seed and the step,
so a killed run continues from its last checkpoint with the documents it would have seen. Matrices
are trained by Muon, embeddings and norms by AdamW, on one CPU process.
"""

import logging
import os
import random
import sys
import time
from pathlib import Path

import torch
from omegaconf import OmegaConf
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from data.mini.stream import SHARES, Stream
from data.mini.tokenizer import BOS_ID, EOS_ID, PAD_ID, build_tokenizer, for_transformers
from decode.jobs.files import append_row
from decode.stage.command import user_errors

logger = logging.getLogger("pretrain")

IGNORED = -100  # the label transformers leaves out of the loss
LOG_STEPS = 50
TOKENIZER_DOCUMENTS = 20_000


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
    """Checkpoints and logs; of no use once the models are saved."""
    models: dict[str, ModelShape]
    only: list[str]
    """Which of `models` this run makes, in order."""
    vocab_size: PositiveInt
    """Entries of the tokenizer."""
    num_steps: PositiveInt
    """Optimizer steps of each model."""
    rows_per_step: PositiveInt
    row_tokens: PositiveInt
    """Rows of packed documents, and the models' longest context."""
    warmup_steps: PositiveInt
    muon_lr: PositiveFloat
    adamw_lr: PositiveFloat
    weight_decay: NonNegativeFloat
    checkpoint_steps: PositiveInt
    """A killed run repeats at most so many steps."""


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
    unknown = sorted(set(recipe.only) - set(recipe.models))
    if unknown:
        raise ValueError(f"{path}: only: found {unknown}, models has {sorted(recipe.models)}")
    if recipe.warmup_steps >= recipe.num_steps:
        raise ValueError(
            f"{path}: warmup_steps: found {recipe.warmup_steps}, must be below num_steps "
            f"({recipe.num_steps})"
        )
    return recipe


def batch_ids(stream: Stream, tokenizer: Tokenizer, recipe: PretrainRecipe, step: int) -> Tensor:
    """The (rows, tokens) int64 batch of `step`: whole documents, each ended by EOS, then padding.

    A document goes to the first row with room for it, so that no row starts inside one.
    """
    rng = random.Random(f"stream-{recipe.seed}-{step}")
    rows: list[list[int]] = [[] for _ in range(recipe.rows_per_step)]
    num_misses = 0
    while num_misses < 20:
        text = stream.document(rng, step / recipe.num_steps)
        ids = [*tokenizer.encode(text).ids, EOS_ID]
        room = recipe.row_tokens - len(ids)
        row = next((row for row in rows if len(row) <= room), None)
        if row is None:
            num_misses += 1
        else:
            row.extend(ids)
    return torch.tensor([row + [PAD_ID] * (recipe.row_tokens - len(row)) for row in rows])


def rate(recipe: PretrainRecipe, step: int) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, then linear decay to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return (recipe.num_steps - step) / (recipe.num_steps - recipe.warmup_steps)


def build_model(shape: ModelShape, vocab_size: int, context: int) -> LlamaForCausalLM:
    """A fresh Llama with tied embeddings, in float32."""
    config = LlamaConfig(
        **shape.model_dump(),
        vocab_size=vocab_size,
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: LlamaForCausalLM, recipe: PretrainRecipe) -> list[Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices = [item for item in model.model.layers.parameters() if item.ndim == 2]
    chosen = {id(item) for item in matrices}
    others = [item for item in model.parameters() if id(item) not in chosen]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay)
    adamw = torch.optim.AdamW(others, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (muon, adamw):
        optimizer.param_groups[0]["peak_lr"] = optimizer.param_groups[0]["lr"]
    return [muon, adamw]


def train_model(
    name: str, stream: Stream, tokenizer: Tokenizer, recipe: PretrainRecipe
) -> LlamaForCausalLM:
    """models[name], trained; continues from its checkpoint in `work_dir` if there is one."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.models[name], recipe.vocab_size, recipe.row_tokens)
    optimizers = build_optimizers(model, recipe)
    checkpoint = recipe.work_dir / f"{name}.pt"
    done = {"step": 0, "num_tokens": 0, "cpu_s": 0.0}
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        done = state["done"]
        logger.info("%s: continues at step %d", name, done["step"])
    start_s = time.process_time() - done["cpu_s"]
    steps = range(done["step"], recipe.num_steps)
    for step in tqdm(steps, name, disable=not sys.stderr.isatty()):
        ids = batch_ids(stream, tokenizer, recipe, step)
        labels = ids.masked_fill(ids == PAD_ID, IGNORED)
        # bfloat16 matrix products: 1.4 times as fast on a core with avx512_bf16.
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate(recipe, step)
            optimizer.step()
            optimizer.zero_grad()
        num_tokens = done["num_tokens"] + int((labels != IGNORED).sum())
        cpu_s = time.process_time() - start_s
        done = {"step": step + 1, "num_tokens": num_tokens, "cpu_s": cpu_s}
        is_last = step + 1 == recipe.num_steps
        if (step + 1) % LOG_STEPS == 0 or is_last:
            append_row(recipe.work_dir / f"{name}.jsonl", done | {"loss": loss.item()})
        if (step + 1) % recipe.checkpoint_steps == 0 or is_last:
            saved = [optimizer.state_dict() for optimizer in optimizers]
            state = {"model": model.state_dict(), "optimizers": saved, "done": done}
            torch.save(state, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    logger.info("%s: %d tokens in %.0f CPU-seconds", name, done["num_tokens"], done["cpu_s"])
    return model


@torch.no_grad()
def losses_by_kind(
    model: LlamaForCausalLM,
    stream: Stream,
    tokenizer: Tokenizer,
    recipe: PretrainRecipe,
) -> dict[str, float]:
    """Mean loss in nats a token on 64 fresh documents of each kind, one a row."""
    losses = {}
    for kind in SHARES:
        rng = random.Random(f"losses-{recipe.seed}-{kind}")
        texts = [stream.of_kind(kind, rng) for _ in range(64)]
        rows = [torch.tensor([*tokenizer.encode(text).ids, EOS_ID]) for text in texts]
        ids = pad_sequence(rows, batch_first=True, padding_value=PAD_ID)
        labels = ids.masked_fill(ids == PAD_ID, IGNORED)
        losses[kind] = round(model(input_ids=ids, labels=labels, use_cache=False).loss.item(), 4)
    return losses


def main() -> None:
    """Recipe, logging, tokenizer, then one model after the other."""
    if len(sys.argv) < 2:
        sys.exit("usage: python train/pretrain.py RECIPE.yaml [key=value ...]")
    with user_errors(ValueError):
        recipe = load_recipe(sys.argv[1], sys.argv[2:])
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("pretraining runs in one process; launch with --num_processes 1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    recipe.work_dir.mkdir(parents=True, exist_ok=True)
    stream = Stream()
    tokenizer_file = recipe.work_dir / "tokenizer.json"
    if not tokenizer_file.is_file():
        rng = random.Random(f"tokenizer-{recipe.seed}")
        documents = (stream.document(rng, 0.5) for _ in range(TOKENIZER_DOCUMENTS))
        build_tokenizer(documents, recipe.vocab_size).save(str(tokenizer_file))
    tokenizer = Tokenizer.from_file(str(tokenizer_file))

    for name in recipe.only:
        model = train_model(name, stream, tokenizer, recipe)
        losses = losses_by_kind(model, stream, tokenizer, recipe)
        logger.info("%s: loss by kind of document: %s", name, losses)
        model.to(torch.bfloat16).save_pretrained(recipe.output_dir / name)  # pyright: ignore
        for_transformers(tokenizer, recipe.row_tokens).save_pretrained(recipe.output_dir / name)


if __name__ == "__main__":
    main()
