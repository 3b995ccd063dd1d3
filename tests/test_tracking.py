"""W&B as users meet it: each case in a process of its own, without their keys and settings."""

import json
import os
import shutil
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.wandb_runs import FAKE_KEY, records_of

from decode.evaluation.metric import Metric
from decode.evaluation.summary import BaseScores, summarize
from decode.tracking.connection import is_reachable, probe_address
from decode.tracking.dashboard import alpha_rows, predictions_table, result_values
from decode.tracking.job import NullTracker, start_tracking
from decode.tracking.lineage import rows_artifact, run_tags, safe_name

SETTINGS = {"project": "proxy", "entity": None, "group": "g", "tags": ["t"], "mode": "online"}
USE_TRACKER = """
import json, logging, sys, types
from pathlib import Path
package = types.ModuleType("decode")  # the module alone: the whole package imports torch
package.__path__ = [sys.argv[1]]
sys.modules["decode"] = package
logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
from decode.tracking.lineage import expert_artifact, rows_artifact
from decode.tracking.job import start_tracking
run_dir = Path(sys.argv[2])
settings = json.loads(sys.argv[3])
if "two jobs" in sys.argv:
    start_tracking(settings, run_dir, "mini", "train", {}).finish()
    start_tracking(settings, run_dir, "mini", "decode", {}).finish()
    sys.exit()
tracker = start_tracking(settings, run_dir, "mini", "train", {"seed": 1})
tracker.uses(rows_artifact("facts", "train", {"num_rows": 3, "digest": "d1"}))
tracker.log({"train/loss": 2.5, "train/learning_rate": 1e-3}, step=7)
tracker.log({"train/loss": 3.5}, step=8)
tracker.log({"over_alpha/alpha": 0.0, "over_alpha/facts/large/value": 0.5})
tracker.summary({"eval/facts/expert": 0.5})
row = {"id": "a", "prompt": "Q", "answers": ["x"], "prediction": "x", "score": 1.0}
tracker.table("tokens", ["row", "token"], [["a", "<x>"]])
tracker.predictions({"expert": [row], "base-large": [{**row, "prediction": "y", "score": 0.0}]})
expert = run_dir / "expert"
expert.mkdir()
(expert / "model.safetensors").write_bytes(b"weights")
log = [{"loss": 2.5, "step": 7}, {"train_loss": 2.0, "step": 8}]
(expert / "training_log.json").write_text(json.dumps(log))
tracker.makes(expert_artifact("mini", expert, {"seed": 1}))
if len(sys.argv) == 5:
    import wandb
    wandb.run.finish()
    tracker.log({"late": 1}); tracker.log({"late": 2})
if len(sys.argv) > 5:
    from decode.jobs.interruption import interruptible
    def main():
        import os, signal
        with tracker:
            os.kill(os.getpid(), signal.SIGTERM)
    print(interruptible(main))
tracker.finish()
print("on" if tracker.is_on else "off")
"""


@pytest.fixture
def launch(tmp_path):
    """Runs USE_TRACKER in a fresh process: (arguments, environment) -> process and seconds."""

    def run(settings, *arguments, **environment):
        clean = {key: text for key, text in os.environ.items() if not key.startswith("WANDB")}
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        clean |= {"HOME": str(home), "NETRC": str(home / "netrc"), "no_proxy": "*"} | environment
        package = Path(__file__).parents[1] / "decode"
        run_dir = tmp_path / "run"
        started = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-c", USE_TRACKER, package, run_dir, json.dumps(settings), *arguments],
            env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return process, time.monotonic() - started

    return run


def records(run_dir):
    """The records of the one offline run below `run_dir`."""
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return records_of(file)


def runs_below(run_dir):
    """How each offline run below `run_dir` began."""
    files = sorted(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
    found = [record for file in files for record in records_of(file)]
    return [record["run"] for record in found if record["type"] == "run"]


@pytest.mark.long
def test_without_a_key_the_run_is_offline_and_complete(launch, tmp_path):
    process, _ = launch(SETTINGS)
    assert process.stdout == "on\n"
    run_dir = tmp_path / "run"
    run_id = (run_dir / "wandb" / "run_id").read_text().strip()
    messages = [line for line in process.stderr.splitlines() if line]
    assert len(messages) == 2, process.stderr
    assert "no API key found" in messages[0]
    assert f"wandb sync {run_dir}/wandb/offline-run-*" in messages[1]

    found = records(run_dir)
    (run,) = (record["run"] for record in found if record["type"] == "run")
    assert run["run_id"] == run_id
    assert (run["project"], run["display_name"]) == ("proxy", "mini")
    assert run["run_group"] == "g"
    assert run["config"]["update"]["seed"] == 1
    assert "eval/facts/expert" in json.dumps(found)
    metrics = [record["metric"] for record in found if record["type"] == "metric"]
    assert [(m.get("glob_name", m.get("name")), m["step_metric"]) for m in metrics] == [
        ("train/*", "train/step"),
        ("train/loss", "train/step"),
        ("over_alpha/*", "over_alpha/alpha"),
    ]
    summaries = [record["summary"]["update"] for record in found if record["type"] == "summary"]
    losses = [summary["train/loss"] for summary in summaries if "train/loss" in summary]
    assert losses[-1] == {"min": 2.5, "last": 3.5}
    artifacts = [record["artifact"] for record in found if record["type"] == "artifact"]
    rows, expert = (found for found in artifacts if found["type"] != "run_table")
    assert (rows["type"], rows["name"]) == ("dataset", "facts-train")
    assert rows["use_after_commit"] and json.loads(rows["metadata"])["digest"] == "d1"
    assert (expert["type"], expert["name"]) == ("model", "mini-expert")
    assert set(expert["aliases"]) == {"latest", "mini"} and not expert.get("use_after_commit")
    told = {"seed": 1, "num_steps": 8, "train_loss": 2.0, "last_loss": 2.5}
    assert json.loads(expert["metadata"]) == told
    (tokens,) = run_dir.glob("wandb/offline-run-*/files/media/table/tokens_*.json")
    assert json.loads(tokens.read_text()) == {"columns": ["row", "token"], "data": [["a", "<x>"]]}
    (table,) = run_dir.glob("wandb/offline-run-*/files/media/table/predictions_*.json")
    systems = ["expert", "expert score", "base-large", "base-large score"]
    assert json.loads(table.read_text()) == {
        "columns": ["id", "prompt", "answers", *systems],
        "data": [["a", "Q", "x", "x", 1.0, "y", 0.0]],
    }
    copies = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not any(path.read_bytes() == b"weights" for path in copies)


@pytest.mark.long
def test_an_unreachable_host_is_found_out_soon_and_said_once(launch, tmp_path):
    process, seconds = launch(SETTINGS, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY=FAKE_KEY)
    assert seconds < 15
    messages = [line for line in process.stderr.splitlines() if line]
    assert len(messages) == 2, process.stderr
    assert "127.0.0.1:9 does not answer" in messages[0]
    assert len(records(tmp_path / "run")) > 5
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or FAKE_KEY.encode() not in path.read_bytes(), path


class _Refusing(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_error(401)

    def log_message(self, *_):
        pass


@pytest.mark.long
def test_a_key_that_the_server_refuses_leaves_the_run_offline(launch, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    process, _ = launch(SETTINGS, WANDB_BASE_URL=url, WANDB_API_KEY=FAKE_KEY)
    server.shutdown()
    messages = [line for line in process.stderr.splitlines() if "decode.tracking" in line]
    assert len(messages) == 1, process.stderr
    assert "401" in messages[0] and "wandb sync" in process.stderr
    assert any(record["type"] == "exit" for record in records(tmp_path / "run"))


@pytest.mark.long
def test_a_run_that_is_over_is_reported_once_and_ends_nothing(launch, tmp_path):
    kept = tmp_path / "run" / "wandb" / "run_id"
    kept.parent.mkdir(parents=True)
    kept.write_text("abcd1234\n")  # of an earlier start, which this one continues
    process, _ = launch(SETTINGS, "finish early", WANDB_MODE="offline")
    messages = [line for line in process.stderr.splitlines() if line]
    assert ["as asked" in line for line in messages] == [True, False, False], process.stderr
    assert "stopped taking data" in messages[2]
    (folder,) = kept.parent.glob("offline-run-*")
    assert folder.name.endswith("abcd1234")


@pytest.mark.long
def test_a_run_that_is_interrupted_is_marked_and_continued_under_its_id(launch, tmp_path):
    process, _ = launch(SETTINGS, "be", "interrupted", WANDB_MODE="offline")
    assert process.stdout == "75\non\n"
    first = records(tmp_path / "run")
    assert sum(record["type"] == "preempting" for record in first) == 1
    (end,) = (record["exit"] for record in first if record["type"] == "exit")
    assert end["exit_code"] == 75
    shutil.rmtree(tmp_path / "run" / "expert")
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    folder.rename(tmp_path / "first")
    launch(SETTINGS, WANDB_MODE="offline")
    again = records(tmp_path / "run")
    ids = [r["run"]["run_id"] for found in (first, again) for r in found if r["type"] == "run"]
    assert len(ids) == 2 and len(set(ids)) == 1
    assert not any(record["type"] == "preempting" for record in again)


@pytest.mark.long
def test_each_job_is_a_run_that_a_rerun_continues(launch, tmp_path):
    settings = {**SETTINGS, "group": None, "mode": "offline"}
    process, _ = launch(settings, "two jobs")
    assert process.stderr.count("W&B is offline") == 1  # one line for both
    jobs, ids = runs_below(tmp_path / "run"), {}
    for run in jobs:
        ids[run["job_type"]] = run["run_id"]
        assert (run["run_group"], run["display_name"]) == ("mini", "mini")
    assert set(ids) == {"train", "decode"} and len(set(ids.values())) == 2
    launch(settings, "two jobs")
    assert {run["run_id"] for run in runs_below(tmp_path / "run")} == set(ids.values())


@pytest.mark.long
def test_a_run_that_the_environment_names_is_all_jobs(launch, tmp_path):
    launch(SETTINGS, "two jobs", WANDB_MODE="offline", WANDB_RUN_ID="given123")
    assert {run["run_id"] for run in runs_below(tmp_path / "run")} == {"given123"}
    assert not list((tmp_path / "run" / "wandb").glob("*run_id"))


@pytest.mark.parametrize(
    ("change", "environment"),
    [
        ({"mode": "disabled"}, None),
        ({"project": None}, None),
        ({}, "disabled"),
    ],
)
def test_switched_off_it_leaves_no_trace(tmp_path, monkeypatch, change, environment):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    tracker = start_tracking({**SETTINGS, **change}, tmp_path, "mini", "train", {})
    assert type(tracker) is NullTracker
    assert not tracker.is_on
    tracker.log({"a": 1}, step=1)
    tracker.summary({"a": 1})
    base = BaseScores("x/large", "large", [0.0], None, {(1.0, ""): [1.0]})
    tracker.results(summarize("facts", Metric("exact_match"), [0.0], [1.0], [base]))
    tracker.predictions({})
    tracker.table("a", [], [])
    tracker.images({"a": tmp_path / "none.png"})
    tracker.uses(rows_artifact("facts", "train", {}))
    tracker.makes(rows_artifact("facts", "eval", {}))
    tracker.finish()
    assert list(tmp_path.iterdir()) == []


def test_other_processes_track_nothing(tmp_path):
    tracker = start_tracking(SETTINGS, tmp_path, "mini", "train", {}, is_main_process=False)
    assert not tracker.is_on
    assert list(tmp_path.iterdir()) == []


def test_result_keys():
    base = BaseScores("x/large", "large", [0.0, 0.0], [1.0, 1.0], {(0.5, ""): [1.0, 0.0]})
    values = result_values(summarize("facts", Metric("exact_match"), [0, 0], [1, 0], [base]))
    assert values["eval/facts/expert"] == 0.5
    assert values["eval/facts/tuned-large"] == 1.0
    assert values["eval/facts/proxy-large-alpha0.5"] == 0.5
    assert values["eval/facts/proxy-large-alpha0.5_low"] < 0.5
    assert values["eval/facts/gap_closed/large/alpha0.5"] == 0.5
    assert values["eval/facts/gain_over_base/large/alpha0.5"] == 0.5
    assert values["eval/facts/gain_over_expert/large/alpha0.5"] == 0.0
    assert all(isinstance(value, float) for value in values.values())
    untuned = BaseScores("x/large", "large", [0.0, 0.0], None, {(0.5, ""): [1.0, 0.0]})
    values = result_values(summarize("facts", Metric("exact_match"), [0, 0], [1, 0], [untuned]))
    assert not any("gap_closed" in key for key in values)


def test_results_over_alpha_begin_with_the_base():
    base = BaseScores(
        "x/large", "large", [0.0, 1.0, 0, 0], [1.0, 1.0, 1, 0], {(1.0, ""): [1, 1, 0, 0]}
    )
    metrics = summarize("facts", Metric("exact_match"), [0] * 4, [1] * 4, [base])
    prefix = "over_alpha/facts/large"
    start, end = alpha_rows(metrics)
    assert start == {
        "over_alpha/alpha": 0.0,
        f"{prefix}/value": 0.25,
        f"{prefix}/gain_over_base": 0.0,
        f"{prefix}/gap_closed": 0.0,
    }
    assert (end["over_alpha/alpha"], end[f"{prefix}/value"]) == (1.0, 0.5)
    assert (end[f"{prefix}/gap_closed"], end[f"{prefix}/gain_over_expert"]) == (0.5, -0.5)
    values = result_values(metrics)
    assert (values["eval/facts/best_value/large"], values["eval/facts/best_alpha/large"]) == (
        0.5,
        1,
    )


def test_tags_and_names_keep_within_what_wandb_takes():
    tags = run_tags(["mine", "task:facts"], {"task": ["facts"], "base": ["x" * 70 + "-13b"]})
    assert tags[:2] == ["mine", "task:facts"] and len(tags) == 3
    assert len(tags[2]) == 64
    assert tags[2].startswith("base:xxx") and tags[2].endswith("-13b")
    assert safe_name("my run: α/β") == "my-run-"
    assert len(safe_name("x" * 200)) == 128


def test_a_table_needs_the_same_rows():
    row = {"id": "a", "prompt": "Q", "answers": ["x"], "prediction": "x", "score": 1.0}
    with pytest.raises(ValueError, match="not the same rows"):
        predictions_table({"expert": [row], "base-large": [{**row, "id": "b"}]})


def test_the_probe_knocks_at_the_proxy_when_there_is_one(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert probe_address("https://api.wandb.ai") == ("api.wandb.ai", 443)
    assert probe_address("http://127.0.0.1:9") == ("127.0.0.1", 9)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    assert probe_address("https://api.wandb.ai") == ("proxy.example", 3128)
    monkeypatch.setenv("no_proxy", "api.wandb.ai")
    assert probe_address("https://api.wandb.ai") == ("api.wandb.ai", 443)


def test_a_name_that_is_never_looked_up_costs_no_more_than_the_limit(monkeypatch):
    def look_up(*_, **__):
        time.sleep(5)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", look_up)
    started = time.monotonic()
    assert not is_reachable("api.example", 443, timeout_s=0.2)
    assert time.monotonic() - started < 2
