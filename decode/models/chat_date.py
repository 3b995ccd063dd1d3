"""Today's date in chat templates (`strftime_now`): resolved once for a run, and kept in its folder.

Otherwise a run that goes on the next day would train on, and ask, other texts than it began with.
"""

import json
import os
from datetime import datetime
from pathlib import Path

from transformers import PreTrainedTokenizerBase

CODES = "aAbBcdDefFGHIjmMpSTuUVwWxXyYzZ"  # of strftime
# A macro of the name takes the place of transformers' function; the line break after it is trimmed.
MACRO = """\
{%- macro strftime_now(format) -%}
{%- set now = namespace(text=format) -%}
{%- for code, value in CODES.items() -%}
{%- set now.text = now.text.replace(code, value) -%}
{%- endfor -%}
{{- now.text -}}
{%- endmacro %}
"""

_kept: Path | None = None  # the file of the run that this process works on


def keep_date(path: Path | None) -> None:
    """From now on templates are told the date in this file, which the first to ask for it writes.

    None tells them the date it is.
    """
    global _kept
    _kept = path


def dated_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template, in which today is the run's date."""
    template = tokenizer.get_chat_template()
    if "strftime_now" not in template:
        return template
    now = _now()
    codes = {f"%{code}": now.strftime(f"%{code}") for code in CODES}
    codes |= {f"%-{code[1:]}": value.lstrip("0") or "0" for code, value in codes.items()}
    return MACRO.replace("CODES", json.dumps(codes)) + template


def _now() -> datetime:
    if _kept is None:
        return datetime.now()
    if not _kept.exists():
        _kept.parent.mkdir(parents=True, exist_ok=True)
        own = _kept.with_name(f"{_kept.name}.{os.getpid()}")
        own.write_text(datetime.now().isoformat(timespec="seconds") + "\n")
        try:
            os.link(own, _kept)
        except FileExistsError:  # another process of the run was first
            pass
        except OSError:  # a file system without links
            os.replace(own, _kept)
        own.unlink(missing_ok=True)
    try:
        return datetime.fromisoformat(_kept.read_text("utf-8").strip())
    except ValueError as error:
        raise ValueError(
            f"{_kept}: expected the date that chat templates are told, as 2026-11-26T12:00:00 "
            f"({error}); write it there, or delete the file to begin with today's"
        ) from None
