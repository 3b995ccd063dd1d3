"""A key-value cache whose rows have lengths of their own.

A row lives in a slot. The key and value of the token at position p are at index p of the
slot, so one comparison says what a query may see: `key position <= query position`. Entries beyond
a row's length (padding of a prefill, an earlier and longer row) are never seen, and are overwritten
when the row grows that long. Rolling a row back is lowering its length; other rows are unaffected.

Shapes: S slots, C capacity, B rows of this forward, T new tokens a row, H heads, D head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

Row = list[tuple[Tensor, Tensor]]  # by layer: keys and values of one row, (1, H, length, D)


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, (S, H, C, D) each, made on the device of its first keys."""

    is_sliding = False  # windows are kept by the mask; see LanguageModel

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        num_slots, capacity = self.cache.num_slots, self.cache.capacity
        self.device = key_states.device
        self.keys = key_states.new_zeros(
            num_slots, key_states.shape[1], capacity, key_states.shape[3]
        )
        self.values = value_states.new_zeros(
            num_slots, value_states.shape[1], capacity, value_states.shape[3]
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args, **kwargs
    ) -> tuple[Tensor, Tensor]:
        """Keys and values that the rows may see, after (B, H, T, D) more at their positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        slots, span = self.cache.slots, self.cache.span
        if self.cache.slot_ids is None:
            self.keys[slots, :, self.cache.run] = key_states
            self.values[slots, :, self.cache.run] = value_states
        else:
            index = (
                self.cache.slot_ids.to(self.device),
                slice(None),
                self.cache.positions.to(self.device),
            )
            self.keys[index] = key_states.transpose(1, 2)  # (B, T, H, D)
            self.values[index] = value_states.transpose(1, 2)
        return self.keys[slots, :, :span], self.values[slots, :, :span]

    def move(self, source: int, target: int) -> None:
        """Copy the row in slot `source` over the one in slot `target`."""
        if self.keys is not None and self.values is not None:
            self.keys[target] = self.keys[source]
            self.values[target] = self.values[source]

    def grow(self) -> None:
        """Enlarge the tensors to the cache's new size; their entries are kept."""
        if self.keys is None or self.values is None:
            return
        old_keys, old_values = self.keys, self.values
        self.lazy_initialization(old_keys, old_values)
        slots, _, capacity, _ = old_keys.shape
        self.keys[:slots, :, :capacity] = old_keys
        self.values[:slots, :, :capacity] = old_values

    def put(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Write a row, (1, H, length, D) each, into a slot."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        self.keys[slot, :, : keys.shape[2]] = keys[0]
        self.values[slot, :, : keys.shape[2]] = values[0]

    def get_seq_length(self) -> int:
        return self.cache.span

    def get_max_length(self) -> int:
        return self.cache.capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.span, 0


class SlotCache(Cache):
    """The cache transformers' models write to; call `aim` before each forward to say where."""

    def __init__(self, num_layers: int, num_slots: int, capacity: int) -> None:
        self._slot_layers = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=[*self._slot_layers])
        self.num_slots = num_slots
        self.capacity = capacity
        self.span = 0

    def aim(
        self,
        slots: Sequence[int],
        positions: Sequence[Sequence[int]],
        span: int,
        device: torch.device,
    ) -> Tensor:
        """The positions of the next forward, which it writes in the given slots.

        Args:
            slots: the B slots to use; a range is read without a copy.
            positions: (B, T), where each new token of each row goes.
            span: how much of the slots is read.
            device: of the model's inputs.

        Returns:
            The positions, (B, T) int64.
        """
        assert span <= self.capacity, f"{span} tokens in a cache of {self.capacity}"
        self.span = span
        is_range = isinstance(slots, range)
        self.slots = slice(slots.start, slots.stop, slots.step) if is_range else list(slots)
        # Rows that are written at the same places, such as one row alone, need no index.
        first, length = positions[0][0], len(positions[0])
        is_run = all(list(row) == list(range(first, first + length)) for row in positions)
        self.run = slice(first, first + length)
        self.slot_ids = None if is_run else torch.tensor(slots, device=device)[:, None]
        self.positions = torch.tensor(positions, device=device)
        return self.positions

    def aim_static(self, slots: range, positions: Tensor, span: int) -> None:
        """As `aim`, with positions on the device, whose values may change between replays."""
        self.span, self.positions = span, positions
        self.slots = slice(slots.start, slots.stop, slots.step)
        slot_ids = torch.arange(slots.start, slots.stop, slots.step, device=positions.device)
        self.slot_ids = slot_ids[:, None]

    @torch.inference_mode()
    def grow(self, num_slots: int, capacity: int) -> None:
        """Make room for more rows, or longer ones; no row is lost."""
        self.num_slots, self.capacity = num_slots, capacity
        for layer in self._slot_layers:
            layer.grow()

    @torch.inference_mode()
    def move(self, source: int, target: int) -> None:
        """Copy the row in slot `source` over the one in slot `target`."""
        for layer in self._slot_layers:
            layer.move(source, target)

    def row(self, slot: int, length: int) -> Row:
        """A copy of the first `length` positions of a slot."""
        place = slice(slot, slot + 1), slice(None), slice(length)
        found: Row = []
        for layer in self._slot_layers:
            assert layer.keys is not None and layer.values is not None, "nothing was read"
            found.append((layer.keys[place].clone(), layer.values[place].clone()))
        return found

    @torch.inference_mode()
    def put(self, slot: int, row: Row) -> None:
        """Write a row, as `row` returns it, into a slot."""
        for layer, (keys, values) in zip(self._slot_layers, row, strict=True):
            layer.put(slot, keys, values)
