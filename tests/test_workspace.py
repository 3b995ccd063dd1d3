"""The workspace shows keys that runs have, and is taken by a server or refused in one line."""

import json
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support import fork_server
from support.wandb_runs import FAKE_KEY

from decode.engine.stats import DecodingStats
from decode.evaluation.metric import Metric
from decode.evaluation.metrics import Decoding
from decode.evaluation.summary import BaseScores, summarize
from decode.tracking.dashboard import alpha_rows, result_values
from decode.tracking.workspace import build_workspace, save_workspace
from decode.workspace import layout
from recipes.schema.recipe import load_recipe
from recipes.schema.steering import Rule

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "recipes/mini/facts.yaml"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_recipe(RECIPE, ["wandb.entity=team", "decode.choose=null"])


@pytest.mark.parametrize("rule", [None, Rule(by_doubt=True)])
def test_results_are_shown_under_the_keys_they_are_logged_by(recipe, rule):
    recipe = recipe.model_copy(update={"decode": recipe.decode.model_copy(update={"rule": rule})})
    name = "doubt" if rule else ""
    proxy = {(alpha, name): [1.0, 1.0, 0.0] for alpha in recipe.decode.alphas}
    base = BaseScores("data/mini/large", "large", [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], proxy)
    metrics = summarize("facts", Metric("exact_match"), [0, 0, 0], [1, 0, 0], [base])
    took = DecodingStats()
    took.num_tokens, took.wall_s = 6, 2.0
    took.add_row(2, 1, 2)
    counts = {"num_rows": 3, "batch_size": 2, "peak_memory_gib": 0.5}
    taken = json.dumps({**counts, **took.summary()})
    decoding = {s.name: Decoding.model_validate_json(taken) for s in metrics.systems}
    metrics = metrics.model_copy(update={"decoding": decoding})
    logged = set(result_values(metrics))
    for row in alpha_rows(metrics):
        logged |= set(row)
    sections = {section.name: section for section in layout(recipe)}
    assert list(sections)[:2] == ["Results", "Over alpha"]
    for name in ("Results", "Over alpha", "Decoding speed"):
        for panel in sections[name].panels:
            assert set(panel.keys) <= logged
            assert panel.x is None or panel.x in logged
    (every,) = sections["Results"].panels
    assert set(every.keys) == {f"eval/facts/{s.name}" for s in metrics.systems}


def test_what_a_recipe_does_not_do_is_not_shown(monkeypatch):
    monkeypatch.chdir(ROOT)
    finished = load_recipe("recipes/instruct7b.yaml")
    shown = layout(finished)
    assert [section.name for section in shown] == ["Results", "Over alpha", "Decoding speed"]
    titles = [panel.title for panel in shown[0].panels]
    assert titles == [f"{task.name}: every system" for task in finished.evaluations]


def test_the_workspace_is_built(recipe):
    pytest.importorskip("wandb_workspaces")
    shown = layout(recipe)
    spec = (
        build_workspace("mini", "team", "proxytune", shown)
        ._to_model()
        .spec.model_dump(by_alias=True)
    )
    found = spec["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in found] == [section.name for section in shown]
    for own, section in zip(found, shown, strict=True):
        keys = [tuple(panel["config"]["metrics"]) for panel in own["panels"]]
        assert keys == [panel.keys for panel in section.panels]
        axes = [panel["config"].get("xAxis") for panel in own["panels"]]
        assert axes == [panel.x for panel in section.panels]
    (runs,) = spec["section"]["runSets"]
    assert runs["grouping"] == [{"section": "run", "name": "group"}]


@pytest.mark.long
def test_without_an_entity_or_a_network_it_says_so(monkeypatch, recipe):
    own = load_recipe(RECIPE)
    with pytest.raises(ValueError, match=r"wandb\.entity: a workspace belongs to one"):
        save_workspace(own.name, own.wandb.entity, own.wandb.project, layout(own))
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    done = run_entry("http://127.0.0.1:9")
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*127\.0\.0\.1:9 does not answer.* by hand\n", done.stderr)


class _Views(BaseHTTPRequestHandler):
    """Takes a view, or refuses all that is asked if `refuses`."""

    refuses = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/graphql":  # and not W&B's own telemetry
            self.server.asked.append(json.loads(body))
        view = {"view": {"id": "V1", "name": "nw-abc-v"}, "inserted": True}
        answer = json.dumps({"data": {"upsertView": view, "viewer": {"entity": "team"}}}).encode()
        self.send_response(403 if self.refuses else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.mark.long
@pytest.mark.parametrize("refuses", [False, True])
def test_a_server_takes_it_or_one_line_says_why_not(refuses):
    pytest.importorskip("wandb_workspaces")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Views", (_Views,), {"refuses": refuses}))
    server.asked = []
    Thread(target=server.serve_forever, daemon=True).start()
    done = run_entry(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    if refuses:
        assert done.returncode == 1
        assert done.stderr.strip().splitlines()[-1].startswith("error: W&B did not take")
        return
    assert done.returncode == 0, done.stderr
    assert "workspace: http://127.0.0.1" in done.stdout and "nw=abc" in done.stdout
    (sent,) = [asked for asked in server.asked if "upsertView" in asked["query"]]
    variables = sent["variables"]
    assert (variables["entityName"], variables["projectName"]) == ("team", "proxytune")
    assert variables["displayName"] == "mini-facts"
    assert "over_alpha/facts/large/gap_closed" in variables["spec"]


def run_entry(url):
    clean = {name: text for name, text in os.environ.items() if not name.startswith("WANDB")}
    clean |= {"WANDB_BASE_URL": url, "WANDB_API_KEY": FAKE_KEY, "no_proxy": "*"}
    return fork_server.run(["decode/workspace.py", RECIPE, "wandb.entity=team"], clean)
