"""The scale of the shift: one number, or one that grows over the first tokens."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alpha:
    """alpha at every token of a completion.

    It depends on the token's place only, so drafts are verified with the alpha that plain decoding
    would use there.

    Attributes:
        value: the scale once it is warm; 0.0 is the base exactly.
        warmup_tokens: it grows from 0 in equal steps over so many tokens; 0 is constant.
    """

    value: float
    warmup_tokens: int = 0

    def __post_init__(self) -> None:
        if self.warmup_tokens < 0:
            raise ValueError(f"warmup_tokens must be 0 or more, found {self.warmup_tokens}")

    def at(self, position: int) -> float:
        """Alpha for the token that `position` tokens of the completion stand before."""
        if position >= self.warmup_tokens:
            return self.value
        return self.value * position / self.warmup_tokens
