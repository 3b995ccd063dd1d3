"""metrics.json: what is written is what is read, old files are completed, bad ones are named.

`golden/metrics.json` was written before the file carried slugs, the k of pass@k and the folders of
further tasks: two tasks, one of them counted downwards.
"""

import json
from pathlib import Path

import pytest

from decode.evaluation.metric import Metric
from decode.evaluation.metrics import Decoding, Uncounted
from decode.evaluation.metrics_file import as_json, read_decoding, read_metrics, write_metrics
from decode.evaluation.summary import BaseScores, summarize, with_further_tasks
from decode.jobs.files import FileChanged, read_json
from decode.reports.finished_run import read_runs

GOLDEN = Path(__file__).parent / "golden" / "metrics.json"
NAMES = ("antiexpert", "expert", "base-large", "proxy-large-alpha1", "tuned-large")
ADDED = ("slug", "pass_at", "folder")  # since the golden file was written


def right(num_right):
    return [1.0] * num_right + [0.0] * (12 - num_right)


def example():
    """The results of the golden file, measured again."""
    base = BaseScores("x/large", "large", [0.5, 0.25, 0.0] * 4, [1.0, 1.0, 0.75] * 4, {})
    base.proxy[1.0, ""] = [1.0, 0.5, 0.5] * 4  # type: ignore[index]
    small = [0.0, 0.5, 0.25] * 4, [0.5, 1.0, 0.25] * 4
    code = summarize("humaneval", Metric("pass@2", pass_at=2), *small, [base])
    took = Decoding(
        num_rows=12,
        batch_size=4,
        num_tokens=60,
        tokens_per_second=30.0,
        tokens_per_verify=1.25,
        acceptance_rate=None,
        accepted_drafts=(3, 1),
        seconds={"prefill": 0.125},
        peak_memory_gib=0.5,
    )
    none_open = Uncounted(num_questions=0, by_system=dict.fromkeys(NAMES, 0))
    code = code.model_copy(update={"decoding": {"base-large": took}, "uncounted": none_open})
    base = BaseScores("x/large", "large", right(10), right(10), {(1.0, ""): right(4)})
    toxic = Metric("share_toxic", higher_is_better=False)
    toxigen = summarize("toxigen-paper", toxic, right(11), right(5), [base])
    by_system = {**dict.fromkeys(NAMES, 0), "antiexpert": 1}
    clear = dict(zip(NAMES, (0.5, 1.0, None, 0.25, 0.75), strict=True))
    found = {
        "decoding": {},
        "uncounted": Uncounted(num_questions=1, by_system=by_system),
        "parts": {name: {} if share is None else {"clear": share} for name, share in clear.items()},
    }
    return with_further_tasks([code, toxigen.model_copy(update=found)], ["tasks/toxigen"])


def without_additions(text):
    """The lines of a file, but for the keys that were added; the golden file's last keys stay."""
    lines = [line for line in text.splitlines() if line.split(":")[0].strip(' "') not in ADDED]
    return "\n".join(lines) + "\n"


def test_todays_file_is_written_byte_for_byte(tmp_path):
    write_metrics(tmp_path / "metrics.json", example())
    text = (tmp_path / "metrics.json").read_text()
    assert without_additions(text) == GOLDEN.read_text()
    assert text.count('"slug": "large"') == 3  # a base of each task, and the mean
    assert text.count('"pass_at": 2') == text.count('"pass_at": null') == 1
    assert text.count('"folder": "tasks/toxigen"') == 1


def test_what_is_written_is_read(tmp_path):
    path, metrics = tmp_path / "metrics.json", example()
    write_metrics(path, metrics)
    assert read_metrics(path) == metrics
    again = tmp_path / "again.json"
    write_metrics(again, read_metrics(path))
    assert again.read_bytes() == path.read_bytes()
    assert json.loads(path.read_text()) == json.loads(json.dumps(as_json(metrics)))


def test_a_file_of_an_earlier_version_is_completed():
    assert read_metrics(GOLDEN) == example()


@pytest.mark.parametrize(
    ("model", "slug"), [("x/large", "large"), ("a/large/", "large"), ("data/mini/large/.", ".")]
)
def test_an_earlier_run_keeps_the_names_its_files_have(tmp_path, model, slug):
    path = tmp_path / "metrics.json"
    path.write_text(GOLDEN.read_text().replace('"x/large"', json.dumps(model)))
    (run, _) = read_runs([str(tmp_path), str(GOLDEN.parent)])
    systems = run.tasks["humaneval"].systems
    assert systems[3].name == f"proxy-{slug}-alpha1"
    for place in ("predictions", "tasks/toxigen/predictions"):
        rows = tmp_path / place / f"proxy-{slug}-alpha1.jsonl"
        rows.parent.mkdir(parents=True)
        rows.write_text('{"id": "q", "prompt": "?", "score": 1.0}\n')
    for task in ("humaneval", "toxigen-paper"):
        assert run.scores(task, systems[3].name) == {("q", "?"): [1.0]}


def edited(*keys, value=None):
    """The golden file's text with one key changed, or taken out."""
    tree = json.loads(GOLDEN.read_text())
    *places, last = keys
    node = tree
    for place in places:
        node = node[place]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return json.dumps(tree)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOLDEN.read_text()[:2000], "not a whole JSON file (Expecting"),
        ("", "not a whole JSON file (Expecting"),
        ("[1, 2]", "found [1, 2], expected a JSON object; "),
        ("null", "found None, expected a JSON object; "),
        ("{}", "task: missing; "),
        (edited("pairs"), "pairs: missing; "),
        (edited("bases", 0, "base", "ci95"), "bases.0.base.ci95: missing; "),
        (edited("bases", 0, "proxy", 0, "alpha"), "bases.0.proxy.0.alpha: missing; "),
        (edited("expert", "value", value="0.5"), 'expert.value: found "0.5"; '),
        (edited("expert", "ci95", value=[0.1]), "expert.ci95.1: missing; "),
        (edited("num_examples", value=1.5), "num_examples: found 1.5; "),
        (edited("also", 0, "metric", value=3), "also.0.metric: found 3; "),
        (edited("also", value="toxigen"), 'also: found "toxigen"; '),
        (edited("exact_match", value=0.3), "exact_match: unknown key; "),
        (edited("pairs", 0, "mcnemar", value={"p": 1}), "pairs.0.mcnemar.both_right: missing; "),
        (edited("bases", 0, "base", "value", value=float("nan")), "bases.0.base.value: found NaN"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_line(tmp_path, text, said):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="metrics") as caught:
        read_metrics(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {said}") and "\n" not in line
    assert line.endswith("decode/run.py writes metrics.json again from the run's predictions")
    with pytest.raises(ValueError, match="metrics") as caught:
        read_runs([str(tmp_path), str(GOLDEN.parent)])
    assert str(caught.value) == line


def test_a_damaged_record_of_decoding_is_one_line(tmp_path):
    path, tree = tmp_path / "base.json", as_json(example())["decoding"]["base-large"]
    path.write_text(json.dumps(tree))
    assert read_decoding(path) == example().decoding["base-large"]
    path.write_text(json.dumps({**tree, "num_tokens": None}))
    with pytest.raises(ValueError, match=r"base\.json: num_tokens: found null; .*; delete it"):
        read_decoding(path)


@pytest.mark.parametrize(
    "damaged", [b"", b"\0\0", b"[]", b"5", b"[" * 9999, b'{"a"', b"\xff", None]
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, damaged):
    path = tmp_path / "decoding" / "expert.json"
    path.parent.mkdir()
    path.mkdir() if damaged is None else path.write_bytes(damaged)
    for read in (read_json, read_metrics, read_decoding):
        with pytest.raises(FileChanged, match=r"expert\.json: ") as caught:
            read(path)
        assert "\n" not in str(caught.value)
