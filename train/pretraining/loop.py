"""The loop of a pretraining: batches, learning rate, checkpoints, losses.

A batch is a function of the seed and the step, so every model sees the same batches in the same
order, and a killed run continues from its last checkpoint with the documents it would have seen.
"""

import logging
import math
import os
import random
import time

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from data.mini.stream import SHARES, Stream
from data.mini.tokenizer import EOS_ID, PAD_ID
from decode.jobs.files import append_row
from decode.jobs.terminal import Progress
from decode.models.fit import check_finite

from ..divergence import Diverged
from .llama import build_model, build_optimizers
from .pretrain_recipe import PretrainRecipe

logger = logging.getLogger(__name__)

IGNORED = -100  # the label transformers leaves out of the loss
LOG_STEPS = 50


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


def train_model(
    name: str, stream: Stream, tokenizer: Tokenizer, recipe: PretrainRecipe
) -> LlamaForCausalLM:
    """models[name], trained; continues from its checkpoint in `work_dir` if there is one.

    Raises:
        Diverged: the loss or its gradient is NaN or infinite; the checkpoint is of a step before.
        ValueError: a weight is, after the last step.
    """
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
    progress = Progress(f"pretraining {name}", recipe.num_steps, "steps", done["step"])
    for step in progress.follow(steps):
        ids = batch_ids(stream, tokenizer, recipe, step)
        labels = ids.masked_fill(ids == PAD_ID, IGNORED)
        # bfloat16 matrix products: 1.4 times as fast on a core with avx512_bf16.
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        _check_finite(name, step, loss.item(), get_total_norm(gradients).item())
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
    check_finite(model.named_parameters(), name)
    logger.info("%s: %d tokens in %.0f CPU-seconds", name, done["num_tokens"], done["cpu_s"])
    return model


def _check_finite(name: str, step: int, loss: float, grad_norm: float) -> None:
    for what, found in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(found):
            raise Diverged(
                f"{name}: pretraining diverged at step {step + 1}: {what} {found}; lower muon_lr "
                "or adamw_lr"
            )


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
