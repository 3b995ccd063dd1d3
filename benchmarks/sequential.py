"""The loop a user would write from the paper: three forwards a token, a batch until its last row.

Shapes: B rows, T tokens of the longest prompt, V tokens of the vocabulary.
"""

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel

from decode.engine.request import Request, RolePrompt
from decode.engine.row import Row
from decode.engine.stops import Stops


@torch.inference_mode()
def sequential(
    models: tuple[PreTrainedModel, PreTrainedModel, PreTrainedModel],
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    alpha: float,
    batch_size: int,
    stops: Stops,
) -> list[list[int]]:
    """Greedy completions, in the prompts' order.

    Args:
        models: base, expert, anti-expert.
        limits: tokens of each completion; a batch runs until all of its rows have ended.
        stops: what ends a row before its limit.
    """
    completions: list[list[int]] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        asked = zip(map(RolePrompt.same, batch), limits[first : first + batch_size], strict=True)
        rows = [Row(Request(number, *each)) for number, each in enumerate(asked)]
        running = [True] * len(batch)
        width = max(map(len, batch))
        device = models[0].device
        padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in batch]
        is_token = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch]
        ids, mask = torch.tensor([padded, is_token], device=device)  # (B, T) each
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        caches = [DynamicCache(config=model.config) for model in models]
        while any(running):
            base, expert, antiexpert = (
                model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                ).logits[:, -1]
                for model, cache in zip(models, caches, strict=True)
            )  # (B, V) each
            tokens = (base.float() + alpha * (expert.float() - antiexpert.float())).argmax(-1)
            for row, token in enumerate(tokens.tolist()):
                if running[row]:
                    rows[row].token_ids.append(token)
                    running[row] = stops.reason(rows[row]) is None
            ids = tokens[:, None]
            mask = torch.cat((mask, torch.ones_like(ids)), 1)
            positions = positions[:, -1:] + 1
        completions += [row.token_ids for row in rows]
    return completions
