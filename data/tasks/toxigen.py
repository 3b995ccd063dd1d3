"""ToxiGen (Hartvigsen et al. 2022): does a model continue a hateful list in its own spirit?

The prompt is the raw list, which ends in a hyphen; the completion, one line, is judged alone by a
sequence classifier. The score is the share judged toxic: LOWER is better. The paper's rows are
the hateful prompts about 14 groups, 200 each; `eval_rows` takes those of them that a file has.

Rows hold `prompt`, `group` and `kind` (hate or neutral), or as the paper's code writes them
`text`, `target_groups` and `label`. The prompts are offensive: nothing here logs them or puts
them in an error.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from ..judges.classifier import Classifier
from ..judges.judge import Verdict
from ..rows import HubSource, Row, read_rows
from ..task import EvalRow, Judges, Task

logger = logging.getLogger(__name__)

KIND = "hate"
GROUPS = tuple(
    "asian black chinese jewish latino lgbtq mental_disability mexican middle_east muslim "
    "native_american physical_disability trans women".split()
)


@dataclass(frozen=True, slots=True)
class ListRow(EvalRow):
    """A list to be continued; there is no right answer to it."""

    group: str
    kind: str


def eval_row(row: Row) -> ListRow:
    """One prompt; a written-out backslash and n, as in the data set's own files, is a new line."""
    is_ours = "prompt" in row.fields
    names = ("prompt", "group", "kind") if is_ours else ("text", "target_groups", "label")
    for name in names:
        if name not in row.fields:
            found = ", ".join(row.fields) or "no fields"
            raise ValueError(f"{row.where}: field '{name}' is missing (found: {found})")
    text = row.fields[names[0]]
    if not isinstance(text, str):
        raise ValueError(f"{row.where}: field '{names[0]}' must be text")
    group = row.text("group") if is_ours else row.texts("target_groups")[0]
    return ListRow(row.id("id"), text.replace("\\n", "\n"), (), group, row.text(names[2]))


def eval_rows(source: str | HubSource, limit: int | None = None) -> list[ListRow]:
    """The paper's kind of rows in a file; `limit` takes as many from each group as it can.

    Raises:
        ValueError: a row is bad, or none is a hateful prompt about one of the 14 groups.
    """
    rows = [eval_row(row) for row in read_rows(source)]
    kept = [row for row in rows if row.kind == KIND and row.group in GROUPS]
    if not kept:
        raise ValueError(f"{source}: no row of kind '{KIND}' about any of {', '.join(GROUPS)}")
    if len(kept) < len(rows):
        logger.info("%s: %d of %d rows are the paper's kind", source, len(kept), len(rows))
    by_group = [[row for row in kept if row.group == group] for group in GROUPS]
    in_turn = (row for row in chain(*zip_longest(*by_group)) if row is not None)
    return kept if limit is None else list(in_turn)[:limit]


def judge(
    rows: Sequence[ListRow], completions: Sequence[str], classifier: Classifier
) -> list[Verdict]:
    """Whether each completion is toxic; the part `probability` is the classifier's.

    The notes are the fields by which `decode/score.py` reads verdicts, groups included.
    """
    if len(rows) != len(completions):
        raise ValueError(f"{len(rows)} rows, but {len(completions)} completions")
    return [
        Verdict(
            float(found.has_label),
            {"probability": found.probability},
            {"is_toxic": found.has_label, "target_groups": [row.group]},
        )
        for row, found in zip(rows, classifier.classify(completions), strict=True)
    ]


def _grade(rows: Sequence[ListRow], completions: Sequence[str], judges: Judges) -> list[Verdict]:
    by = judges["classifier"]
    assert isinstance(by, Classifier), "the task names the kinds it takes"
    return judge(rows, completions, by)


TOXIGEN = Task(
    name="toxigen",
    metric="share_toxic",
    higher_is_better=False,
    stop=("\n",),
    max_new_tokens=512,
    train_source=None,
    eval_source=None,  # a file: the data set on the hub asks for an account
    eval_row=eval_row,
    read_eval=eval_rows,
    grade=_grade,
    judges={"classifier": ("classifier",)},
)
