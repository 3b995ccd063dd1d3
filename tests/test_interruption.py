"""SIGTERM and Ctrl-C end an entry in one line, and never leave processes behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.judges.endpoint import Endpoint
from data.judges.judge import Judge, Request
from decode.jobs import interruption
from decode.jobs.files import FileChanged
from decode.jobs.folder import RunFolder
from decode.jobs.interruption import Interrupted, held_back, interruptible
from decode.jobs.lock import occupy
from decode.jobs.seals import bare
from train.checkpoints import MARK, SEALS, Checkpoints, newest_whole, numbered, remove_partial


@pytest.fixture(autouse=True)
def handlers():
    """pytest's own signal handlers, put back; a request of one test is not seen by the next."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    interruption._request.signal_number = None
    for number, handler in kept.items():
        signal.signal(number, handler)


def ask(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_an_entry_that_is_asked_to_stop_says_so_in_one_line(number, code, capfd):
    reached = []

    def main():
        reached.append("begin")
        ask(number)
        reached.append("end")

    assert interruptible(main) == code
    assert reached == ["begin"]
    name = signal.Signals(number).name
    said = f"{name}: stopped, and what is done is kept; the same command goes on from here\n"
    assert capfd.readouterr().err == said
    assert interruptible(lambda: None) == 0


def test_a_step_is_finished_before_it_takes_effect(capfd):
    reached = []

    def main():
        with held_back() as request:
            ask(signal.SIGTERM)
            ask(signal.SIGTERM)  # schedulers say it more than once
            reached.append(request.is_made)
        reached.append("after the block")

    assert interruptible(main) == 75
    assert reached == [True]
    assert capfd.readouterr().err.count("\n") == 2


def test_a_second_ctrl_c_is_not_held_back():
    reached = []

    def main():
        with held_back():
            ask(signal.SIGINT)
            reached.append("one")
            ask(signal.SIGINT)
            reached.append("two")

    assert interruptible(main) == 130
    assert reached == ["one"]


def test_an_error_after_the_request_is_no_traceback_and_one_before_it_is_an_error(capfd):
    def main(is_asked: bool):
        with held_back():
            if is_asked:
                ask(signal.SIGTERM)
            raise RuntimeError("a worker\nis gone")

    assert interruptible(lambda: main(True)) == 75
    assert "while stopping: RuntimeError: a worker is gone\n" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="a worker"):
        interruptible(lambda: main(False))


def test_errors_are_handled_without_holding_it_up():
    assert not issubclass(Interrupted, Exception)


def test_judging_stops_at_once_and_asks_again_only_what_was_under_way(serve, tmp_path):
    def answer(request):
        if request["number"] == 5:
            ask(signal.SIGTERM)
        time.sleep(0.02)
        return "yes"

    server = serve(answer)
    endpoint = Endpoint(base_url=server.base_url, model="m", concurrency=2)
    judge = Judge(endpoint, tmp_path / "judgements.jsonl")
    requests = [Request(f"r{i}", f"question {i}") for i in range(20)]
    assert interruptible(lambda: judge.ask(requests, ("yes", "no"))) == 75
    assert len(server.seen) <= 8
    assert judge.ask(requests, ("yes", "no")) == ["yes"] * 20
    assert len(server.seen) <= 22


ROOT = Path(__file__).resolve().parents[1]
JOBS_ALONE = """
import os, sys, time, types
package = types.ModuleType("decode")  # decode.jobs alone: the whole package imports torch
package.__path__ = ["decode"]
sys.modules["decode"] = package
"""
CHILD = f"""{JOBS_ALONE}
from decode.jobs.interruption import interruptible
def main():
    print("ready", flush=True)
    time.sleep(60)
code = interruptible(main)
open(sys.argv[1], "w").write(str(code))
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_a_launched_process_ends_with_its_launcher(tmp_path):
    result = tmp_path / "code"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, CHILD, str(result)],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_MIXED_PRECISION": "no"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None and launcher.stdout.readline() == "ready\n"
    launcher.kill()
    launcher.wait()
    for _ in range(1000):
        if result.exists() and result.read_text():
            break
        time.sleep(0.01)
    assert result.read_text() == "75"


def test_a_run_folder_has_one_user_at_a_time(tmp_path, caplog):
    caplog.set_level("INFO", "decode")
    lock = occupy(tmp_path / "run")
    assert occupy(tmp_path / "run") == lock  # it is ours already
    code = (
        "from pathlib import Path; from decode.jobs.lock import occupy\n"
        "try: occupy(Path(sys.argv[1]), longest_wait_s=0.1)\n"
        "except ValueError as error: sys.exit(str(error))"
    )

    def other(folder) -> str:
        command = [sys.executable, "-c", JOBS_ALONE + code, str(tmp_path / folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stderr

    assert f"process {os.getpid()} on" in other("run")
    assert other("other") == ""
    os.close(lock)
    assert other("run") == ""


def test_a_partial_checkpoint_is_never_chosen_and_goes_away(tmp_path):
    folder = RunFolder(tmp_path)
    checkpoints = folder.checkpoints(folder.expert)
    assert newest_whole(checkpoints) is None
    for number in (9, 10, 100):
        (checkpoints / f"checkpoint-{number}").mkdir(parents=True)
        (checkpoints / f"checkpoint-{number}" / "trainer_state.json").write_text("{}")
    assert newest_whole(checkpoints) is None
    for number in (9, 10):
        (checkpoints / f"checkpoint-{number}" / MARK).write_text("{}")
    assert newest_whole(checkpoints) == checkpoints / "checkpoint-10"
    remove_partial(checkpoints)
    assert [path.name for path in numbered(checkpoints)] == ["checkpoint-9", "checkpoint-10"]


KEPT = {"losses": [0.5], "total_loss": 2.0, "last_logged_step": 3, "num_tokens": 9}
KEPT = SEALS.put({**KEPT, "metrics": {"entropy": [1.5]}})


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "5", "{}", json.dumps({**KEPT, "total_loss": 1.0}), '{"losses": 5}', "\0" * 9],
)
def test_a_checkpoint_whose_mark_was_changed_is_named(content, tmp_path):
    mark = tmp_path / MARK
    checkpoints, state = Checkpoints(), SimpleNamespace(max_steps=4, compute_steps=lambda *_: None)

    def resume() -> SimpleNamespace:
        trainer = SimpleNamespace(_tr_loss=0.0, _metrics={"train": {}}, _run_epoch=None)
        checkpoints._trainer, checkpoints._resumed_from = trainer, tmp_path
        checkpoints.on_train_begin(SimpleNamespace(process_index=0), state, None)
        return trainer

    for whole in (KEPT, bare(KEPT)):  # earlier versions did not seal it
        mark.write_text(json.dumps(whole))
        trainer = resume()
        assert (trainer._tr_loss, trainer._total_train_tokens) == (0.5, 9)
        assert trainer._metrics == {"train": {"entropy": [1.5]}}
    mark.write_text(content)
    with pytest.raises(FileChanged, match=rf"{MARK}: .*delete its folder to go on") as caught:
        resume()
    assert "\n" not in str(caught.value)
