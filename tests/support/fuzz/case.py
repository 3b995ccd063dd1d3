"""A case: a command line on something that was harmed, and how its error may read."""

from dataclasses import dataclass, field


@dataclass
class Case:
    """A command line, and what its error may name."""

    arguments: list[str]
    harm: str
    """What was done, for a reader."""
    names: tuple[str, ...]
    """An error names one of these: the file, the key, the line or the place."""
    same_results: bool = False
    """If it ends well, the run's numbers are those it had."""
    answers: list[bytes] = field(default_factory=list)
    """What a judge's endpoint sends, raw, in turns."""
