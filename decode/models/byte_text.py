"""The distribution of a text's next byte by a model that writes tokens (Hayase et al. 2025).

A text may end inside a token, so several tokens may be under way. A cover is a way to write it:
whole tokens, and one more that the text ends in. Its probability is that of its whole tokens times
that of all tokens with the rest of the text as their beginning. The next byte's is the sum over all
covers of the tokens that go on with it (arXiv 2506.14123, section 3).

Whole tokens are those that the tokenizer would cut: a cover dies where its own would be cut
otherwise. So there is about one for each place in the text. Ends inside a character are cut by no
tokenizer, and all covers live until the character is whole.

The logits after a cover's whole tokens are asked for when they may matter: a forward for each byte
would read mostly what is next to impossible (`P` and then `aris`). Until then the cover counts as
nothing, and what all of those may hold is known.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from .byte_trie import ByteTrie, Node
from .speller import Speller

END = 256  # the symbol that ends a text
NUM_SYMBOLS = 257
_SPACE = 0x20
_TINY = 1e-100


@dataclass(slots=True, eq=False)
class Cover:
    """One way to write a text so far.

    Attributes:
        ids: its whole tokens, after those of the text's words that are over.
        weight: their probability, on a scale common to all covers; at most this while `before` is
            not read.
        node: the tokens whose beginning is the rest of the text.
        probs: their probabilities after `ids`, float32; None until read.
        end_prob: the probability that the text ends after `ids`.
        before: the cover whose whole tokens are all but the last, if it is not read.
    """

    ids: tuple[int, ...]
    weight: float
    node: Node
    probs: np.ndarray | None = None
    end_prob: float = 0.0
    before: "Cover | None" = None
    after: list[tuple["Cover", int]] = field(default_factory=list)  # and the token's place


class ByteText:
    """What has been written of one text, and how it may go on.

    Attributes:
        done: tokens of the words that are over, the same in all covers.
    """

    def __init__(self, trie: ByteTrie, speller: Speller) -> None:
        self._trie, self._speller = trie, speller
        self.done: list[int] = []
        self._tail = bytearray()  # what follows them
        self._covers = [Cover((), 1.0, trie.root)]
        self._known: np.ndarray | None = None

    @property
    def num_tokens(self) -> int:
        """How many whole tokens the text has so far; of several ways to cut it, in the shortest."""
        whole = [len(cover.ids) for cover in self._covers if not cover.node.depth]
        others = [len(cover.ids) for cover in self._covers]
        return len(self.done) + (min(whole) if whole else max(others, default=0))

    def add(self, byte: int) -> None:
        """The text goes on with a byte."""
        is_new_word = byte == _SPACE and self._speller.ends_words and self._tail[-1:].isalpha()
        word = tuple(self._speller.ids(bytes(self._tail))) if is_new_word else None
        self._tail.append(byte)
        self._known = None
        going_on = [
            (cover, node)
            for cover in self._covers
            if (node := self._trie.child(cover.node, byte)) is not None
        ]
        is_cut = any(self._trie.parts(node).num_whole for _, node in going_on)
        cuts = self._cuts() if is_cut else None
        self._covers = [cover for one in going_on for cover in self._gone_on(*one, cuts)]
        if word is not None:
            self._leave(word)
        self._rescale()

    def unread(self, tolerance: float) -> Cover | None:
        """The cover to be read next; None if those that are unread hold no more than a share."""
        known, unread = float(self._sums().sum()), self._unread
        if not known and not unread:
            # Impossible, or cut otherwise than any of its beginnings: it is taken as it is.
            ids = tuple(self._speller.ids(bytes(self._tail)))
            self._covers = unread = [Cover(ids, 1.0, self._trie.root)]
        missing = sum(cover.weight for cover in unread)
        if not missing > tolerance * (known + missing):
            return None
        cover = max(unread, key=lambda one: one.weight)
        while cover.before is not None:
            cover = cover.before
        return cover

    def read(self, cover: Cover, probs: np.ndarray, end_prob: float) -> None:
        """Take in what a model says after a cover's whole tokens.

        Args:
            probs: (N,) float32, of the trie's tokens in its order.
            end_prob: the probability that the text ends there.
        """
        for child, place in cover.after:
            child.before = None
            _weigh(child, cover.weight * float(probs[place]))
        cover.after.clear()
        cover.end_prob = end_prob
        cover.probs = self._part(probs, cover.node.first, cover.node)
        self._known = None

    def next_probs(self, spreads: bool) -> np.ndarray:
        """The probabilities of the next symbol, (257,) float64; `unread` comes first.

        Args:
            spreads: what is unread counts as if it went on with every byte alike, so that no byte
                is held to be impossible that is not; otherwise it counts as nothing.
        """
        found = self._sums()
        if spreads:
            found = found + sum(cover.weight for cover in self._unread) / NUM_SYMBOLS
        return found / found.sum()

    @property
    def _unread(self) -> list[Cover]:
        return [cover for cover in self._covers if cover.probs is None]

    def _sums(self) -> np.ndarray:
        """(257,) what the covers that are read give each symbol, on the scale of their weights."""
        if self._known is None:
            self._known = np.zeros(NUM_SYMBOLS)
            for cover in self._covers:
                if cover.probs is None:
                    continue
                num_whole, values, starts = self._trie.parts(cover.node)
                sums = np.add.reduceat(cover.probs[num_whole:], starts, dtype=np.float64)
                self._known[values] += cover.weight * sums
                if not cover.node.depth:
                    self._known[END] += cover.weight * cover.end_prob
        return self._known

    def _gone_on(
        self, cover: Cover, node: Node, cuts: set[tuple[int, ...]] | None
    ) -> Iterator[Cover]:
        """A cover after one byte more, and those that have one whole token more."""
        if cover.probs is not None:
            cover.probs = self._part(cover.probs, node.first - cover.node.first, node)
        cover.node = node
        num_whole = self._trie.parts(node).num_whole
        for number in range(num_whole):
            ids = (*cover.ids, int(self._trie.ids[node.first + number]))
            if cuts is not None and ids not in cuts:
                continue
            longer = Cover(ids, cover.weight, self._trie.root)
            if cover.probs is None:
                longer.before = cover
                cover.after.append((longer, node.first + number))
            else:
                longer.weight *= float(cover.probs[number])
            yield longer
        if num_whole < node.size:
            yield cover

    @staticmethod
    def _part(probs: np.ndarray, first: int, node: Node) -> np.ndarray:
        """Those of a node; a copy, that the rest be let go."""
        part = probs[first : first + node.size]
        return part.copy() if 0 < node.size < len(probs) else part

    def _cuts(self) -> set[tuple[int, ...]] | None:
        """The ways to cut the tail into whole tokens; None, any, if it ends inside a character."""
        raw = bytes(self._tail)
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                return None
        return self._speller.cuts(raw)

    def _leave(self, word: tuple[int, ...]) -> None:
        """Count the tokens of a word as done, if all covers have them."""
        size = len(word)
        if any(cover.before or cover.ids[:size] != word for cover in self._covers):
            return
        self.done += word
        del self._tail[:-1]
        for cover in self._covers:
            cover.ids = cover.ids[size:]

    def _rescale(self) -> None:
        """Keep the weights of a long text from running out of numbers."""
        most = max((cover.weight for cover in self._covers), default=1.0)
        if 0 < most < _TINY:
            covers = {id(cover): cover for one in self._covers for cover in _line(one)}
            for cover in covers.values():
                cover.weight /= most


def _line(cover: Cover | None) -> Iterator[Cover]:
    """A cover, and the unread ones that it goes on from."""
    while cover is not None:
        yield cover
        cover = cover.before


def _weigh(cover: Cover, weight: float) -> None:
    """Give a cover its weight, which bounds those of the covers that go on from it unread."""
    cover.weight = weight
    for child, _ in cover.after:
        _weigh(child, weight)
