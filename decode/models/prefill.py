"""How prompts are cut into forwards: little padding, and none larger than the memory for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PREFILL_TOKENS = 8192  # in one forward; activations grow with it, and GPUs are busy long before
PADDING_LIMIT = 1.25  # tokens computed over tokens wanted, before a forward of its own is cheaper


@dataclass(frozen=True, slots=True)
class Chunk:
    """Columns of some prompts, to be read in one forward.

    Attributes:
        rows: which prompts.
        ids, positions: (rows, columns); shorter prompts are padded on the left, with id 0 at the
            position None.
        is_last: the last column holds the last token of each prompt.
    """

    rows: list[int]
    ids: list[list[int]]
    positions: list[list[int | None]]
    is_last: bool


def prefill_chunks(
    prompts: Sequence[Sequence[int]], num_tokens: int = PREFILL_TOKENS
) -> Iterator[Chunk]:
    """Cut prompts into chunks; those of one prompt come in order and cover it.

    Args:
        prompts: ids, at least one each.
        num_tokens: columns times rows of a chunk stay within it (a chunk has one of each at least).
    """
    for group in _of_one_length(prompts, num_tokens):
        width = len(prompts[group[0]])
        step = max(1, num_tokens // len(group))
        for start in range(0, width, step):
            end = min(start + step, width)
            padding = {row: width - len(prompts[row]) for row in group}
            rows = sorted(row for row in group if padding[row] < end)
            ids: list[list[int]] = []
            positions: list[list[int | None]] = []
            for row in rows:
                first, stop = max(start - padding[row], 0), end - padding[row]
                missing = end - start - (stop - first)
                ids.append([0] * missing + list(prompts[row][first:stop]))
                positions.append([None] * missing + list(range(first, stop)))
            yield Chunk(rows, ids, positions, end == width)


def _of_one_length(prompts: Sequence[Sequence[int]], num_tokens: int) -> Iterator[list[int]]:
    """Rows, the longest first, in groups that waste little when padded to their first."""
    group: list[int] = []
    wanted = 0
    for row in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        wanted += len(prompts[row])
        padded = len(prompts[group[0]]) * (len(group) + 1) if group else 0
        if padded > PADDING_LIMIT * wanted or len(group) == num_tokens:
            yield group
            group, wanted = [], len(prompts[row])
        group.append(row)
    yield group
