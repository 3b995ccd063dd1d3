"""A tokenizer's tokens by their beginnings: which go on with which byte."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Node(NamedTuple):
    """The tokens with one beginning: those at places `first` to `last` of the trie's order."""

    first: int
    last: int
    depth: int  # bytes of the beginning

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return self.last - self.first


class Parts(NamedTuple):
    """A node's tokens by what comes after the beginning.

    Attributes:
        num_whole: the first so many are the beginning and no more.
        bytes: what the others go on with, in order.
        starts: where those of each byte begin, counted from the first of them.
    """

    num_whole: int
    bytes: np.ndarray
    starts: np.ndarray


class ByteTrie:
    """Tokens in the order of their bytes, so that those with one beginning stand side by side.

    Attributes:
        ids: (N,) int64, the tokens' ids in this order; those without bytes are left out.
        longest: bytes of the longest token.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        order = sorted((raw, id_) for id_, raw in enumerate(tokens) if raw)
        self.ids = np.array([id_ for _, id_ in order])
        self._raw = [raw for raw, _ in order]
        self.longest = max(map(len, self._raw))
        self.root = Node(0, len(order), 0)
        self._columns: list[np.ndarray] = []  # by depth, the byte there or -1
        self._parts: dict[Node, Parts] = {}

    def child(self, node: Node, byte: int) -> Node | None:
        """The tokens of a node that go on with a byte; None if there is none."""
        parts = self.parts(node)
        place = int(parts.bytes.searchsorted(byte))
        if place == len(parts.bytes) or parts.bytes[place] != byte:
            return None
        begin = node.first + parts.num_whole
        is_last = place + 1 == len(parts.bytes)
        last = node.last if is_last else begin + int(parts.starts[place + 1])
        return Node(begin + int(parts.starts[place]), last, node.depth + 1)

    def find(self, beginning: bytes) -> Node | None:
        """The tokens with a beginning; None if there is none."""
        node: Node | None = self.root
        for byte in beginning:
            node = node and self.child(node, byte)
        return node

    def parts(self, node: Node) -> Parts:
        """A node's tokens by what comes after the beginning."""
        if node not in self._parts:
            column = self._column(node.depth)[node.first : node.last]
            starts = np.concatenate(([0], np.flatnonzero(np.diff(column)) + 1))
            values = column[starts]
            num_whole = 0
            if values[0] < 0:
                num_whole = int(starts[1]) if len(starts) > 1 else node.size
                values, starts = values[1:], starts[1:] - num_whole
            self._parts[node] = Parts(num_whole, values, starts)
        return self._parts[node]

    def _column(self, depth: int) -> np.ndarray:
        while len(self._columns) <= depth:
            here = len(self._columns)
            found = [raw[here] if here < len(raw) else -1 for raw in self._raw]
            self._columns.append(np.array(found, dtype=np.int16))
        return self._columns[depth]
