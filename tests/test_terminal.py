"""What a person sees: progress on a terminal and in a file, help, and commands to type."""

import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from decode.jobs import terminal
from decode.jobs.terminal import Progress
from decode.stage.command import HelpFormatter, command_line
from train.progress import TrainingProgress

ROOT = Path(__file__).resolve().parents[1]
ENTRIES = ("train/sft.py", "train/memory.py", "train/pretrain.py", "decode/run.py")
ENTRIES += ("decode/score.py", "decode/compare.py", "decode/analyze.py", "decode/workspace.py")


@pytest.fixture
def log(caplog, monkeypatch):
    """The lines of a log, by a clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("RANK", raising=False)
    caplog.set_level(logging.INFO)

    def moved(seconds: float) -> list[str]:
        now[0] += seconds
        return caplog.messages

    return moved


@contextmanager
def screen(kind: str = "xterm", rank: str = "0") -> Iterator[Callable[[], str]]:
    """A terminal of 80 columns in place of standard error; gives all that was written to it."""
    ours, its_end = os.openpty()
    environment = {"TERM": kind, "COLUMNS": "80", "RANK": rank}
    with os.fdopen(its_end, "w") as stream, patch.dict(os.environ, environment):

        def written() -> str:
            stream.write("END")
            stream.flush()
            text = ""
            while not text.endswith("END"):
                text += os.read(ours, 1 << 16).decode()
            return text.removesuffix("END").replace("\r\n", "\n")

        with patch.object(sys, "stderr", stream):
            yield written
    os.close(ours)


def test_a_short_stage_is_one_line_of_a_log(log):
    with Progress("decoding base", 1_400) as progress:
        for _ in range(1_400):
            log(0.001)
            progress.add()
    assert log(0) == ["decoding base: 1,400 rows"]


def test_a_long_stage_is_a_line_a_tenth(log):
    with Progress("decoding base", 1_000) as progress:
        for _ in range(1_000):
            log(1)
            progress.add()
    lines = log(0)
    assert lines[1] == "decoding base: 100/1,000 rows, 15:00 left"
    assert lines[-1] == "decoding base: 1,000/1,000 rows in 16:40"
    assert len(lines) == 11


def test_lines_of_a_log_are_seconds_apart_and_never_hours(log):
    with Progress("quick", 10) as progress:
        for _ in range(10):
            log(2)
            progress.add()
    assert len(log(0)) == 3  # 0, 5 and all of 10
    with Progress("slow", 10_000) as progress:
        for _ in range(2):
            log(1_000)
            progress.add()
    assert len(log(0)) == 3 + 4


def test_a_stage_that_goes_on_says_from_where(log):
    with Progress("decoding base", 40, num_done=30) as progress:
        log(20)
        progress.add(5)
        log(20)
        progress.add(5)
    first, middle, last = log(0)
    assert first == "decoding base: 40 rows, 30 of them done before"
    assert middle == "decoding base: 35/40 rows, 00:20 left"
    assert last == "decoding base: 40/40 rows in 00:40"


def test_a_part_of_a_stage_speaks_only_if_it_is_long(log):
    assert list(Progress("asking", 3, is_part=True).follow("abc")) == ["a", "b", "c"]
    assert log(0) == []
    progress = Progress("asking", 3, "answers", is_part=True)
    log(60)
    progress.add()
    progress.close()
    assert log(0) == ["asking: 1/3 answers, 02:00 left"]


def test_other_processes_are_silent(log, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    progress = Progress("decoding", 3)
    log(60)
    progress.add()
    progress.close()
    assert log(0) == []


@pytest.mark.parametrize("name", ["base", "proxy-Llama-2-70b-hf-with-a-name-of-its-own-alpha0.75"])
def test_a_line_moves_within_80_columns_and_stays_at_the_end(name):
    with screen() as written:
        with Progress(f"decoding 3/9 {name}", 12_345) as progress:
            for _ in range(3):
                progress.add(4_115)
                progress.tell("loss 0.1234")
        text = written()
    *moving, last = text.removesuffix("\n").split("\r")
    assert all(len(line) <= 80 for line in moving)
    assert "? left" in text
    assert last.startswith("decoding 3/9") and "12345/12345 rows in 00:00, loss 0.1234" in last
    assert name[-10:] in last.replace("decoding 3/9 ", "") and len(last.rstrip()) <= 80


def test_a_part_leaves_nothing():
    with screen() as written:
        list(Progress("asking", 3, "answers", is_part=True).follow("abc"))
        text = written()
    assert "\n" not in text and "asking: " in text
    assert text.rstrip("\r").rpartition("\r")[2].strip() == ""


@pytest.mark.parametrize("given", [{"kind": "dumb"}, {"rank": "1"}])
def test_a_dumb_terminal_and_other_processes_get_no_line_that_moves(given):
    with screen(**given) as written:
        with Progress("decoding", 3) as progress:
            progress.add()
        assert written() == ""


def test_log_lines_stand_above_the_line_that_moves():
    logger = logging.Logger("own")
    with screen() as written:
        logger.addHandler(terminal.AboveProgress())
        with Progress("decoding", 3):
            logger.warning("memory is short")
        lines = [line.rpartition("\r")[2] for line in written().split("\n")]
    assert lines[0] == "memory is short"
    assert lines[1].startswith("decoding: 0/3 rows in")


def test_a_training_shows_its_steps_and_its_loss(log, tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    state, control = TrainerState(max_steps=8, global_step=4), TrainerControl()
    progress = TrainingProgress("expert")
    progress.on_train_begin(arguments, state, control)
    for loss in (3.0, 2.0, 1.0, 0.51234):
        log(5)
        progress.on_step_end(arguments, state, control)
        progress.on_log(arguments, state, control, {"loss": loss})
    progress.on_log(arguments, state, control, {"train_loss": 9.0})
    progress.close()
    assert log(0) == [
        "training expert: 8 steps, 4 of them done before",
        "training expert: 6/8 steps, 00:10 left, loss 3",
        "training expert: 8/8 steps in 00:20, loss 0.5123",
    ]


def test_the_libraries_lose_noise_and_keep_warnings(caplog):
    terminal.quiet_libraries()
    logger = logging.getLogger("DeepSpeed")
    with caplog.at_level(logging.WARNING), caplog.filtering(lambda record: True):
        logger.propagate, before = True, logger.propagate
        logger.warning("Setting accelerator to CPU. If you have GPU ...")
        logger.warning("the optimizer is slow")
        logger.propagate = before
    assert set(caplog.messages) == {"the optimizer is slow"}


def test_a_command_can_be_typed_from_anywhere(tmp_path, monkeypatch):
    recipe = tmp_path / "my run" / "recipe.yaml"
    for folder in (ROOT, tmp_path):
        monkeypatch.chdir(folder)
        line = command_line("decode/score.py", recipe)
        _, entry, given = shlex.split(line)
        assert Path(given) == recipe
        assert Path(entry).resolve() == ROOT / "decode" / "score.py"
    assert entry == str(ROOT / "decode" / "score.py")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert command_line("decode/score.py").startswith("python ")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line("decode/score.py").startswith(f"{sys.executable} ")


def test_help_is_as_wide_as_the_terminal():
    text = f"First.\n\n    python {'x' * 90}\n\nA paragraph of\n{'words ' * 30}\n"
    filled = HelpFormatter("x")._fill_text(text, 78, "")
    first, example, paragraph = filled.split("\n\n")
    assert first == "First." and example == f"    python {'x' * 90}"
    assert max(map(len, paragraph.splitlines())) <= 78
    assert paragraph.startswith("A paragraph of words")


@pytest.mark.long
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_has_help(entry):
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, entry, "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {Path(entry).name}")
