"""A key planted in a judged run is in no byte of its folder, output, logs or W&B's files."""

import base64
import logging
import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from support.decode_run import decode
from support.judge_server import completion, failure

from decode.jobs.faults import keep_tracebacks_in
from decode.stage.command import entry, without_secrets

KEY = "planted/0123+456789abcdefXYZ"
FORMS = {
    "as it is": KEY,
    "URL-encoded": quote(KEY, safe=""),
    "JSON": KEY.replace("/", "\\/"),
    "escaped": "".join(f"\\u{ord(one):04x}" for one in KEY),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "header in base64": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "digits": KEY.encode().hex(),
}
ECHO = " ".join(FORMS.values())


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("JUDGE_KEY", KEY)
    yield
    keep_tracebacks_in(None)


def found_in(*texts):
    """The written forms of the key that are in a text, or in a file below a folder."""
    contents = []
    for text in texts:
        if isinstance(text, Path):
            contents += [path.read_bytes() for path in text.rglob("*") if path.is_file()]
        else:
            contents.append(text.encode())
    return [
        name for name, form in FORMS.items() if any(form[12:36].encode() in one for one in contents)
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "status"), [("offline", 200), ("disabled", 400), ("disabled", 404), ("disabled", 500)]
)
def test_a_judged_run_keeps_no_key(
    serve, recipe, tmp_path, capfd, caplog, monkeypatch, status, mode
):
    monkeypatch.setenv("WANDB_MODE", mode)
    caplog.set_level(logging.INFO)
    answers = {
        200: lambda request: completion(
            {"message": {"content": f"{'AB'[request['number'] % 2]}\n\n{ECHO}"}}, model=ECHO
        )
    }
    server = serve(answers.get(status, lambda request: failure(status, ECHO)))
    path = recipe(judge=server, wandb={"project": "toy"})
    tree = yaml.safe_load(path.read_text())
    tree["task"]["judges"]["judge"]["endpoint"] |= {"key_env": "JUDGE_KEY", "num_retries": 1}
    path.write_text(yaml.safe_dump(tree))
    message = decode(path)
    assert server.seen[0]["key"] == f"Bearer {KEY}"
    assert (message is None) == (status == 200), message
    record = tmp_path / "run" / "judgements" / "judge.jsonl"
    shown = [str(message), caplog.text, *capfd.readouterr()]
    assert "[key]" in (record.read_text() if record.exists() else str(message))
    assert (mode == "offline") == any((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert found_in(tmp_path, *shown) == []


@pytest.mark.parametrize("form", FORMS)
def test_errors_and_their_tracebacks_keep_no_key(tmp_path, capsys, form):
    keyed = f"{FORMS[form]} and hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"

    @entry()
    def main():
        keep_tracebacks_in(tmp_path)
        raise RuntimeError(f"cannot reach https://me:hunter22@host with {keyed}")

    with pytest.raises(SystemExit) as stopped:
        main()
    log = tmp_path / "error.log"
    assert "[key]" in log.read_text() and "[secret]" in log.read_text()
    for text in (str(stopped.value), log.read_text()):
        assert "hunter22" not in text and "hf_abc" not in text
    assert found_in(tmp_path, str(stopped.value), *capsys.readouterr()) == []


def test_ordinary_error_lines_stay_as_they_are():
    lines = (
        f"{sys.executable}: {os.getcwd()}/runs/x was made with task.eval 'a.jsonl', and has null",
        "recipe.yaml: task.judges.judge.endpoint.key_env: expected the name of a variable",
        "the environment variable JUDGE_KEY, named in key_env, holds no key",
    )
    for line in lines:
        assert without_secrets(line) == line
