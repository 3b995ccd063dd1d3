"""Whether files of predictions answer the same questions, so that their scores can be compared.

Rows belong together by their names, in any order, where both files name them by the same field; by
their places otherwise. Rows that belong together have the same gold answers.
"""

from collections import Counter

from .scored_file import ScoredFile


def check_same_questions(path: str, file: ScoredFile, first_path: str, first: ScoredFile) -> None:
    """Check that a file answers the questions of the first.

    Raises:
        ValueError: names the first row that differs, in one line.
    """
    remedy = "; compare answers to the same questions"
    if file.keys is not None and first.keys is not None and file.key_field == first.key_field:
        here, there = Counter(file.keys), Counter(first.keys)
        for one, counts, other, others in (
            (first_path, there, path, here),
            (path, here, first_path, there),
        ):
            strange = next((key for key in counts if counts[key] != others[key]), None)
            if strange is not None:
                times = others[strange] or "no"
                raise ValueError(
                    f"{other}: {times} rows of {first.key_field} {strange!r:.80}, and {one} has "
                    f"{counts[strange]}{remedy}"
                )
        names = [*first.keys]
        places = [file.keys.index(key) for key in names] if max(there.values()) == 1 else None
    else:
        names, places = None, None
    if len(file.values) != len(first.values):
        raise ValueError(
            f"{path} has {len(file.values):,} rows and {first_path} {len(first.values):,}{remedy}"
        )
    if file.golds is None or first.golds is None:
        return
    for number, gold in enumerate(first.golds):
        place = number if places is None else places[number]
        if _plain(file.golds[place]) != _plain(gold):
            name = f"line {place + 1}" if names is None else f"row {names[number]!r:.80}"
            raise ValueError(
                f"{path}: {name} has the gold answer {_shown(file.golds[place])}, and {first_path} "
                f"has {_shown(gold)}{remedy}"
            )


def _plain(gold: tuple[str, ...]) -> set[str]:
    return {answer.strip() for answer in gold}


def _shown(gold: tuple[str, ...]) -> str:
    return f"{', '.join(gold)!r:.60}"
