"""One causal language model, continued token by token by rows that live in slots."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..engine.engine import Pick
from ..engine.row import Row, Rows
from .attention import Masks, grouped_heads, without_plans
from .cache import SlotCache
from .ends import end_ids
from .fast_path import fast_path
from .fused import FusedKernels
from .graphs import SPAN_STEP, Capture, CudaCapture, Recordings, Replay
from .lane import Lane
from .prefill import prefill_chunks
from .quantised import can_be_recorded

Ids = Sequence[int]


class LanguageModel:
    """A model and its cache: rows live in slots, each with its own length.

    It is an `engine.Steppable` whose rows read the base's prompt. Code that combines several models
    calls `make_room`, `fill` and `step`, which take prompts and tokens rather than rows. The cache
    holds a row's prompt and all emitted tokens but the newest, which the next forward reads. Drafts
    leave only keys and values beyond the row's length, which no query sees and the next forward
    overwrites.

    Shapes: B rows, T tokens, k drafts, V the tokenizer's vocabulary (padding beyond it is cut).

    Attributes:
        model: the transformers model, in evaluation mode.
        device: of its input tokens.
        eos_ids: ids that end a completion, the end of a turn in the chat template among them.
        lane: where it computes; the device's own if the model is on one GPU.
        capture: records forwards of repeating shape (graphs.py); None off a GPU.
        num_recorded: forwards that were recorded so far; each was computed eagerly then.
    """

    can_draft = False  # a model alone has no smaller one to draft for it
    can_roll_back = True

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.device = model.device  # asked for often, and slow to find
        self.eos_ids = end_ids(getattr(model, "generation_config", None), tokenizer)
        self._num_tokens = max(tokenizer.get_vocab().values()) + 1
        self._prompt_lengths: list[int] = []  # by slot
        self._lengths: Tensor | None = None  # the same on the device; None if it is to be copied
        self._cache: SlotCache | None = None
        if self.device.type == "cuda":
            without_plans()
        is_on_one_gpu = self.device.type == "cuda" and len(_devices(model)) == 1
        self.lane = Lane(self.device if is_on_one_gpu else None)
        self._can_be_recorded = can_be_recorded(model)
        self.capture: Capture | None = self._own_capture()
        self.num_recorded = 0
        self._recordings: Recordings | None = None
        self._kernels = FusedKernels(model)
        config = model.config.get_text_config(decoder=True)
        self._num_layers: int = config.num_hidden_layers
        self._masks = Masks(config, model.dtype, self.device)

    def with_own_cache(self) -> Self:
        """The same weights with slots of their own, for rows that this model does not step."""
        own = copy.copy(self)
        own._cache = own._recordings = own._lengths = None
        own._prompt_lengths = []
        own.lane = Lane(None if self.lane.stream is None else self.device)
        own.capture = own._own_capture()
        return own

    def _own_capture(self) -> Capture | None:
        stream = self.lane.stream
        return None if stream is None or not self._can_be_recorded else CudaCapture(stream)

    def reserve(self, rows: Sequence[Row], num_slots: int, num_kept: int) -> None:
        longest = max(len(ids(row)) + row.request.max_new_tokens for row in rows)
        self.make_room(longest, num_slots, num_kept)

    def prefill(self, rows: Sequence[Row], slots: Sequence[int]) -> Tensor:
        return self.fill([ids(row) for row in rows], slots)

    def draft(self, rows: Sequence[Row], num_tokens: int, pick: Pick) -> Tensor:
        assert num_tokens == 0, "a model alone cannot draft"
        return torch.empty(len(rows), 0, dtype=torch.long, device=self.device)

    def read(self, rows: Sequence[Row], drafts: Tensor) -> Tensor:
        rows = Rows(rows, self.device)
        with self.lane.entered():
            tokens = torch.cat((rows.newest, drafts.to(self.device)), 1)
            return self.step(tokens, range(len(rows)), rows)

    def move(self, source: int, target: int) -> None:
        assert self._cache is not None, "make_room() comes first"
        with self.lane.entered():
            self._cache.move(source, target)
        self._set_length(target, self._prompt_lengths[source])

    def make_room(self, num_tokens: int, num_slots: int, num_kept: int) -> None:
        """Make room for `num_tokens` of prompt and completion in each of `num_slots` slots.

        The first `num_kept` slots keep their rows. If none is kept and the cache is too small, it
        is freed before a larger one is made.
        """
        cache = self._cache
        if cache and cache.num_slots >= num_slots and cache.capacity >= num_tokens:
            return  # old entries lie beyond every new row's length
        capacity = num_tokens
        if cache and num_kept:
            num_slots = max(num_slots, cache.num_slots)
            capacity = max(capacity, cache.capacity)
        if self.capture is not None:  # the larger, the longer it can be used
            capacity = -(-capacity // SPAN_STEP) * SPAN_STEP
        self._close_recordings()
        if cache and num_kept:
            with self.lane.entered():
                cache.grow(num_slots, capacity)
        else:
            self._cache = cache = None  # free the old one first
            self._cache = SlotCache(self._num_layers, num_slots, capacity)
        self._prompt_lengths += [0] * (num_slots - len(self._prompt_lengths))
        self._lengths = None
        if self.capture is not None:
            self._recordings = Recordings(
                self._static_forward,
                num_slots,
                capacity,
                capacity - 1,
                self.device,
                self._record,
            )

    def clear(self) -> None:
        """Free the cache."""
        self._close_recordings()
        self._cache = None

    def _close_recordings(self) -> None:
        """They write to the cache, so they go before it does."""
        if self._recordings is not None:
            self._recordings.close()
        self._recordings = None

    def fill(self, prompts: Sequence[Ids], slots: Sequence[int]) -> Tensor:
        """Read prompts into slots: (B, V) logits of what follows each.

        Prompts of about one length go together, and at most PREFILL_TOKENS tokens in one forward.
        """
        assert self._cache is not None, "make_room() comes first"
        # No query sees the last position, since no completion's last token is read. Padding and
        # drafts that run past the end of a row land there.
        unused = self._cache.capacity - 1
        for slot, prompt in zip(slots, prompts, strict=True):
            self._set_length(slot, len(prompt))
        with self.lane.entered():
            return self._fill(prompts, slots, unused)

    def _fill(self, prompts: Sequence[Ids], slots: Sequence[int], unused: int) -> Tensor:
        found: dict[int, Tensor] = {}
        for chunk in prefill_chunks(prompts):
            positions = [[unused if p is None else p for p in row] for row in chunk.positions]
            end = max(p for row in chunk.positions for p in row if p is not None) + 1
            columns = torch.tensor(chunk.ids, device=self.device)
            to = _as_range([slots[row] for row in chunk.rows])
            if not chunk.is_last:
                self.run(self.model.base_model, columns, to, positions, end)  # without the head
                continue
            # An index, not a slice: the head gets its rows side by side (in bf16 on a CPU a
            # strided slice was seen to take 200 times as long).
            last = torch.tensor([columns.shape[1] - 1], device=self.device)
            logits = self.run(self.model, columns, to, positions, end, logits_to_keep=last).logits
            found.update(zip(chunk.rows, logits[:, -1, : self._num_tokens], strict=True))
        return torch.stack([found[row] for row in range(len(prompts))])

    def step(self, tokens: Tensor, slots: range, rows: Sequence[Row], ahead: int = 0) -> Tensor:
        """Logits after tokens that begin at each row's newest, or `ahead` tokens beyond it.

        Args:
            tokens: (B, T) int64.
            slots: those of the B rows.

        Returns:
            (B, T, V) logits.
        """
        assert self._cache is not None, "make_room() comes first"
        unused, num_tokens = self._cache.capacity - 1, tokens.shape[1]
        firsts = [
            self._prompt_lengths[slot] + len(row.token_ids) - 1 + ahead
            for slot, row in zip(slots, rows, strict=True)
        ]
        end = min(max(firsts) + num_tokens, unused + 1)
        with self.lane.entered():
            if self._recordings is not None and fast_path.is_on:
                first = self._own_lengths(slots) + Rows(rows, self.device).num_emitted
                return self._recordings(tokens, slots, first + (ahead - 1), end)
            positions = [[min(f + i, unused) for i in range(num_tokens)] for f in firsts]
            logits = self.run(self.model, tokens, slots, positions, end).logits
            return logits[..., : self._num_tokens]

    def read_at(self, tokens: Tensor, slots: Sequence[int], firsts: Sequence[int]) -> Tensor:
        """Logits after the last of (B, T) tokens, which are put at given places on: (B, V).

        For a row whose text is cut anew, whatever it has emitted; never recorded.
        """
        num_tokens = tokens.shape[1]
        positions = [[*range(first, first + num_tokens)] for first in firsts]
        last = torch.tensor([num_tokens - 1], device=self.device)  # an index, as in `_fill`
        with self.lane.entered():
            where = _as_range([*slots]), positions, max(firsts) + num_tokens
            logits = self.run(self.model, tokens, *where, logits_to_keep=last).logits
        return logits[:, -1, : self._num_tokens]

    def _own_lengths(self, slots: range) -> Tensor:
        """The lengths of the prompts in these slots, (B, 1) int64, on the device."""
        if self._lengths is None:
            self._lengths = torch.tensor(self._prompt_lengths, device=self.device)[:, None]
        return self._lengths[slots.start : slots.stop : slots.step]

    def _set_length(self, slot: int, num_tokens: int) -> None:
        self._prompt_lengths[slot] = num_tokens
        self._lengths = None

    def _record(self, call: Callable[[], Tensor]) -> Replay:
        assert self.capture is not None
        self.num_recorded += 1
        return self.capture(call)

    def _static_forward(self, ids: Tensor, slots: range, positions: Tensor, span: int) -> Tensor:
        def forward() -> Tensor:
            return self.run(self.model, ids, slots, positions, span).logits[..., : self._num_tokens]

        assert self._cache is not None, "make_room() comes first"
        return self._kernels(forward, positions < self._cache.capacity - 1)

    @torch.inference_mode()
    def run(
        self,
        network: nn.Module,
        ids: Tensor,
        slots: Sequence[int],
        positions: Sequence[Sequence[int]] | Tensor,
        end: int,
        **options: Any,
    ) -> Any:
        """One forward of `network`, writing the cache.

        Args:
            ids, positions: (B, T); the values of a tensor may change between replays.
            slots: those of the B rows.
            end: no query sees positions from here on.
        """
        assert self._cache is not None, "make_room() comes first"
        if isinstance(positions, Tensor):
            assert isinstance(slots, range), "replays read slots in a range"
            self._cache.aim_static(slots, positions, end)
            position_ids, sees_all = positions, False
        else:
            position_ids = self._cache.aim(slots, positions, end, self.device)
            sees_all = not self._masks.window and all(row == [end - 1] for row in positions)
        with grouped_heads():
            return network(
                input_ids=ids,
                attention_mask=None if sees_all else self._masks(position_ids, end),
                position_ids=position_ids,
                past_key_values=self._cache,
                use_cache=True,
                **options,
            )


def ids(row: Row, role: Literal["base", "expert", "antiexpert"] = "base") -> Ids:
    """The prompt as the role reads it."""
    return cast(Ids, getattr(row.prompt, role))


def _as_range(slots: list[int]) -> Sequence[int]:
    """The slots as a range if they are one, which is read and written without an index."""
    run = range(slots[0], slots[0] + len(slots))
    return run if slots == [*run] else slots


def _devices(model: PreTrainedModel) -> set[torch.device]:
    return {parameter.device for parameter in model.parameters()}
