"""A finished run read again token by token: the tokens are those that were decoded."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.models import byte_tokenizer, tiny_model
from support.quick_tier import few
from support.runs import changed, run
from test_experiment import QUESTIONS, score

import decode.analysis.token_rows
import decode.models.forced
from decode.analysis.shift_summary import summarize_shifts
from decode.analysis.token_rows import token_rows
from decode.analysis.token_text import pieces, token_text
from decode.engine.request import Request, RolePrompt
from decode.engine.row import Row
from decode.engine.rule import Alpha, Rule
from decode.engine.sampling import Sampling
from decode.evaluation.experiment import Experiment
from decode.evaluation.lineup import Contender, Lineup, System
from decode.evaluation.loaded import Completers
from decode.evaluation.metric import Metric
from decode.jobs.files import read_rows
from decode.jobs.folder import RunFolder, SettingsChanged
from decode.models.language_model import LanguageModel
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.models.prompts import encode

ROOT = Path(__file__).resolve().parents[1]
TOKENIZER = byte_tokenizer()
TOLERANCE = 2e-5  # float32, another order of the same sums


def ascii_model(seed, **options):
    """A tiny model that says ASCII only, and ends instead of "{"."""
    model = tiny_model(seed, **options)
    foreign = [id_ for id_ in range(256) if not TOKENIZER.decode([id_]).isascii()]
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[foreign] = 0
        weight[256] = 1.1 * weight[TOKENIZER("{")["input_ids"][0]]
    return model


@pytest.fixture
def save(tmp_path):
    def to(name, model):
        model.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
        return ModelSource(str(tmp_path / name))

    return to


@pytest.fixture
def experiment(save) -> Experiment:
    small, expert = save("small", ascii_model(1)), save("expert", ascii_model(2))
    lineup = Lineup(
        experts=(ExpertSource(expert, small),),
        contenders=(Contender("large", save("large", ascii_model(0)), None),),
        alphas=(Alpha(1.0),),
        batch_size=3,
        device="cpu",
    )
    return Experiment(
        lineup=lineup,
        task="letters",
        metric=Metric("exact_match"),
        questions=QUESTIONS,
        score=score,
        stop=("@N", "pq\t", "\x05:-:"),
        max_new_tokens=12,
        sampling=Sampling(),
    )


def lora(save, tmp_path) -> ModelSource:
    model = get_peft_model(
        ascii_model(1), LoraConfig(r=4, lora_alpha=16, target_modules="all-linear")
    )
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "small")
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return save("adapter", model)


def rows_of(experiment, *arguments):
    return token_rows(Completers(experiment.lineup), experiment, *arguments)


def decoded(experiment, folder):
    """The proxy's predictions, and its completions decoded once more, for their ids."""
    system = System("proxy", experiment.lineup.contenders[0], experiment.lineup.alphas[0])
    predictions = run(experiment, folder)[system.name]
    requests = experiment.requests(system, range(len(experiment.row_ids)))
    done = list(Completers(experiment.lineup).of(system).complete(requests))
    ids = [c.token_ids for c in sorted(done, key=lambda c: c.name)]
    return system, predictions, ids


def stepwise(model: LanguageModel, prompt: list[int], ids) -> torch.Tensor:
    """(steps, V) log-probabilities, read one token at a time through the cache."""
    row = Row(Request(0, RolePrompt.same(prompt), len(ids)))
    model.reserve([row], 1, 0)
    said = [model.prefill([row], [0])]
    for id_ in ids[:-1]:
        row.token_ids.append(id_)
        said.append(model.read([row], torch.empty(1, 0, dtype=torch.long))[:, 0])
    return torch.cat(said).float()


@pytest.mark.parametrize("kind", few(["two models", "adapter", "sampled"], "two models"))
def test_forced_figures_are_those_of_decoding(experiment, save, tmp_path, kind):
    if kind == "adapter":
        experiment = changed(experiment, expert=lora(save, tmp_path))
    if kind == "sampled":
        sampling = Sampling(temperature=1.0, seed=3)
        experiment = changed(experiment, sampling=sampling, num_samples=2)
    folder = RunFolder(tmp_path / "run")
    system, predictions, ids = decoded(experiment, folder)
    rows = rows_of(experiment, system, predictions, len(predictions), folder)
    assert [row["id"] for row in rows] == experiment.row_ids
    reasons = {row["finish_reason"] for row in rows}
    assert reasons == {"stop", "length", "eos"} or kind == "sampled"
    model = Completers(experiment.lineup).of(system).model
    readers = {
        "base": model.base,
        "expert": model.pair.expert,
        "antiexpert": model.pair.antiexpert,
    }
    num_checked = 0
    for row, wanted in zip(rows, ids, strict=True):
        assert [token["id"] for token in row["tokens"]] == list(wanted)
        prompt = encode(TOKENIZER, row["prompt"])
        said = {role: stepwise(reader, prompt, wanted) for role, reader in readers.items()}
        said["proxy"] = said["base"] + said["expert"] - said["antiexpert"]
        for step, token in enumerate(row["tokens"]):
            own = {role: logits[step].log_softmax(-1) for role, logits in said.items()}
            for role, logprobs in own.items():
                emitted = logprobs[token["id"]].item()
                assert token[f"{role}_logprob"] == pytest.approx(emitted, abs=TOLERANCE)
                best_id, _, best = token["top"][role][0]
                assert best_id == logprobs.argmax().item()
                assert best == pytest.approx(logprobs.max().item(), abs=TOLERANCE)
            base, proxy = own["base"], own["proxy"]
            moved = (proxy[token["id"]] - base[token["id"]]).item()
            assert token["delta_logprob"] == pytest.approx(moved, abs=2 * TOLERANCE)
            rank = int((base > base[token["id"]]).sum()) + 1
            assert token["base_rank"] == rank
            assert token["is_top1_changed"] == (base.argmax() != proxy.argmax()).item()
            total = 0.5 * (proxy.exp() - base.exp()).abs().sum().item()
            assert token["total_variation"] == pytest.approx(total, abs=TOLERANCE)
            num_checked += 1
        ends = [token["is_end"] for token in row["tokens"]]
        assert ends == [False] * (len(ends) - 1) + [row["finish_reason"] != "length"]
    assert num_checked >= 20
    if kind != "sampled":
        assert summarize_shifts(rows)["emitted_is_top1"] == 1


@pytest.mark.long
def test_batches_and_chunks_change_nothing(experiment, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    system, predictions, _ = decoded(experiment, folder)
    wanted = rows_of(experiment, system, predictions, 7, folder)
    shutil.rmtree(folder.analysis)
    monkeypatch.setattr(decode.models.forced, "MAX_LOGITS", 2 * 258)
    found = rows_of(changed(experiment, batch_size=1), system, predictions, 7, folder)
    for row, other in zip(found, wanted, strict=True):
        assert [t["id"] for t in row["tokens"]] == [t["id"] for t in other["tokens"]]
        for token, same in zip(row["tokens"], other["tokens"], strict=True):
            for key in ("proxy_logprob", "total_variation", "expert_logprob"):
                assert token[key] == pytest.approx(same[key], abs=TOLERANCE)


def test_alpha_0_moves_nothing(experiment, tmp_path):
    experiment = changed(experiment, alphas=(Alpha(0.0),))
    folder = RunFolder(tmp_path / "run")
    system, predictions, _ = decoded(experiment, folder)
    rows = rows_of(experiment, system, predictions, 7, folder)
    tokens = [token for row in rows for token in row["tokens"]]
    assert len(tokens) > 20
    for token in tokens:
        assert token["delta_logprob"] == token["delta_probability"] == token["total_variation"] == 0
        assert token["base_rank"] == token["proxy_rank"] == 1
        assert token["is_top1_changed"] is False
        assert token["expert_logprob"] != token["base_logprob"]


@pytest.mark.long
def test_warm_up_and_further_experts_apply_as_in_decoding(experiment, save, tmp_path):
    more = ExpertSource(save("third", ascii_model(4)), experiment.lineup.antiexpert, 0.5)
    slow = (Alpha(1.0, Rule(warmup_tokens=4)),)
    experiment = changed(experiment, alphas=slow, more_experts=(more,))
    folder = RunFolder(tmp_path / "run")
    system, predictions, ids = decoded(experiment, folder)
    rows = rows_of(experiment, system, predictions, 7, folder)
    assert [tuple(token["id"] for token in row["tokens"]) for row in rows] == ids
    assert summarize_shifts(rows)["emitted_is_top1"] == 1
    assert all(row["tokens"][0]["total_variation"] == 0 for row in rows)  # alpha is still 0


@pytest.mark.long
def test_a_killed_analysis_goes_on(experiment, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    system, predictions, _ = decoded(experiment, folder)
    whole = rows_of(experiment, system, predictions, 7, folder)
    text = folder.tokens(system.name).read_bytes()
    shutil.rmtree(folder.analysis)
    real = decode.analysis.token_rows.forced_role_logits
    num_batches = 0

    def die_in_the_second(*arguments):
        nonlocal num_batches
        num_batches += 1
        if num_batches == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(decode.analysis.token_rows, "forced_role_logits", die_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        rows_of(experiment, system, predictions, 7, folder)
    kept = [*folder.analysis.rglob("*.jsonl")]
    assert sum(len(read_rows(path)) for path in kept) == 3
    assert rows_of(experiment, system, predictions, 7, folder) == whole
    assert num_batches == 4  # one before the kill, one that died, two more
    assert folder.tokens(system.name).read_bytes() == text

    def refuse(*_):
        raise AssertionError("a finished analysis loaded a model")

    monkeypatch.setattr(Completers, "of", refuse)
    assert rows_of(experiment, system, predictions, 7, folder) == whole
    assert rows_of(experiment, system, predictions, 4, folder) == whole[:4]


@pytest.mark.long
def test_other_models_or_predictions_are_refused(experiment, save, tmp_path):
    folder = RunFolder(tmp_path / "run")
    system, predictions, _ = decoded(experiment, folder)
    moved = RunFolder(tmp_path / "moved")
    shutil.copytree(folder.path, moved.path)
    rows_of(experiment, system, predictions, 2, moved)
    others = [{**predictions[0], "completion": "other"}, *predictions[1:]]
    with pytest.raises(SettingsChanged, match="was made with predictions"):
        rows_of(experiment, system, others, 2, moved)
    stranger = changed(experiment, expert=save("stranger", ascii_model(9)))
    with pytest.raises(SettingsChanged, match=r"was made with expert \w+, and this recipe has"):
        rows_of(stranger, system, predictions, 2, folder)
    ruled = replace(system, alpha=Alpha(1.0, Rule(by_doubt=True)))
    for place in (folder.predictions, lambda name: folder.settings(folder.predictions(name))):
        shutil.copy(place(system.name), place(ruled.name))
    with pytest.raises(SettingsChanged, match=r"was made with rule None, and this recipe has \{"):
        rows_of(experiment, ruled, predictions, 2, folder)


@pytest.mark.long
def test_rows_without_token_ids_are_refused(experiment, tmp_path):
    folder = RunFolder(tmp_path / "run")
    system, predictions, _ = decoded(experiment, folder)
    odd = [{key: value for key, value in row.items() if key != "token_ids"} for row in predictions]
    with pytest.raises(ValueError, match=r"proxy-large-alpha1\.jsonl: rows without token_ids"):
        rows_of(experiment, system, odd, 7, folder)


def test_pieces_add_up_and_a_split_character_is_whole_in_its_last():
    ids = TOKENIZER("h\u00e9!")["input_ids"]
    assert pieces(TOKENIZER, TOKENIZER("O")["input_ids"], ids) == ["h", "", "\u00e9", "!"]


def test_a_token_reads_as_it_is():
    (euro, *_) = TOKENIZER("\u20ac")["input_ids"]
    assert token_text(TOKENIZER, euro) == TOKENIZER.convert_ids_to_tokens(euro)
    assert token_text(TOKENIZER, TOKENIZER(" ")["input_ids"][0]) == " "
    assert token_text(TOKENIZER, 256) == "<eos>"
    assert token_text(TOKENIZER, 300) == "<300>"


def start(entry, capsys, monkeypatch, *arguments) -> str:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [entry, "recipes/mini/facts.yaml", *arguments])
    runpy.run_path(entry, run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.long
def test_the_entry_leaves_an_analysis(save, tmp_path, capsys, monkeypatch):
    rows = [{"id": f"r{i}", "question": f"Is it {i}?", "answers": ["yes"]} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save("run/expert", ascii_model(2))
    given = [
        f"output_dir={tmp_path / 'run'}",
        f"expert.model={save('small', ascii_model(1)).name}",
        f"decode.bases=[{{model: {save('large', ascii_model(0)).name}, dtype: float32}}]",
        f"task.eval={tmp_path / 'rows.jsonl'}",
        "decode.max_new_tokens=8",
        "decode.alpha=[0.5, 1.0]",
        "wandb.mode=disabled",
    ]
    with pytest.raises(SystemExit, match="no finished run"):
        start("decode/analyze.py", capsys, monkeypatch, *given)
    start("decode/run.py", capsys, monkeypatch, *given)
    said = start("decode/analyze.py", capsys, monkeypatch, *given, "analyze.num_rows=5")
    assert "facts, proxy-large-alpha1: the base preferred another token at" in said
    assert "(5 of 6 completions)" in said
    folder = tmp_path / "run" / "analysis"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    system = "proxy-large-alpha1"
    names = ("tokens.jsonl", "tokens.html", "top1_changed.png")
    wanted = {"analysis.json", "analysis.md", "trade_off.png", *(f"{system}/{n}" for n in names)}
    assert wanted <= found <= wanted | {f"{system}/most_shifted.png"}
    for path in folder.rglob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    analysis = json.loads((folder / "analysis.json").read_text())
    assert analysis["systems"][system]["num_rows"] == 5
    assert analysis["systems"][system]["emitted_is_top1"] == 1
    assert [alpha for alpha, _, _ in analysis["trade_offs"][0]["points"]] == [0, 0.5, 1]
    report = (folder / "analysis.md").read_text()
    assert "the last 1 of 6 completions" in report
    for linked in (f"{system}/tokens.html", f"{system}/top1_changed.png", "trade_off.png"):
        assert f"({linked})" in report
    with pytest.raises(SystemExit, match=r"analyze\.alpha \(override\): found 2, and"):
        start("decode/analyze.py", capsys, monkeypatch, *given, "analyze.alpha=2")
