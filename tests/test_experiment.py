"""The five systems on one task: what is decoded, what is kept, and what is never done twice."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from support.runs import changed, run

import decode.backends.local
import decode.evaluation.prediction_file
import decode.models.loaded
from decode.engine.rule import Alpha, Rule
from decode.engine.sampling import Sampling
from decode.evaluation.experiment import Experiment, check
from decode.evaluation.lineup import Contender, Lineup
from decode.evaluation.metric import Metric
from decode.evaluation.summary import measure
from decode.jobs.files import read_rows
from decode.jobs.folder import RunFolder
from decode.models.chat import PromptForm
from decode.models.loaded import ExpertSource
from decode.models.model_source import ModelSource
from decode.models.prompts import RoleTokenizers


@dataclass(frozen=True)
class Question:
    id: str
    prompt: str
    answers: tuple[str, ...]


def score(completion: str, answers: tuple[str, ...]) -> tuple[str, float]:
    return completion[:1], float(completion[:1] in answers)


QUESTIONS = [Question(f"q{i}", f"Question {i} is {'long ' * i}?", ("a", "b")) for i in range(7)]


@pytest.fixture
def experiment(save_model) -> Experiment:
    base, small, expert, tuned = (
        ModelSource(save_model(name, seed))
        for seed, name in enumerate(("large", "small", "expert", "tuned"))
    )
    lineup = Lineup(
        experts=(ExpertSource(expert, small),),
        contenders=(Contender("large", base, tuned),),
        alphas=(Alpha(0.5), Alpha(1.0)),
        batch_size=3,
        device="cpu",
    )
    return Experiment(
        lineup=lineup,
        task="letters",
        metric=Metric("exact_match"),
        questions=QUESTIONS,
        score=score,
        stop=("z",),
        max_new_tokens=6,
        sampling=Sampling(),
    )


def files(folder: Path) -> dict[str, bytes]:
    """Everything but timings."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "decoding"
    }


def test_every_system_is_decoded_and_measured(experiment, tmp_path):
    folder = RunFolder(tmp_path / "run")
    predictions = run(experiment, folder)
    names = ["antiexpert", "expert", "base-large", "proxy-large-alpha0.5", "proxy-large-alpha1"]
    assert list(predictions) == [*names, "tuned-large"]
    for name, rows in predictions.items():
        assert rows == read_rows(folder.predictions(name))
        assert [row["id"] for row in rows] == [question.id for question in QUESTIONS]
        assert all(row["num_tokens"] <= 6 and "z" not in row["completion"] for row in rows)
    completions = {name: tuple(r["completion"] for r in rows) for name, rows in predictions.items()}
    assert len(set(completions.values())) == 6  # six models that differ say different things
    metrics = measure(experiment, predictions, folder)
    assert metrics.num_examples == 7
    assert [proxy.alpha for proxy in metrics.bases[0].proxy] == [0.5, 1.0]
    mean = sum(row["score"] for row in predictions["expert"]) / 7
    assert metrics.expert.value == pytest.approx(mean)


@pytest.mark.long
def test_an_interrupted_run_ends_as_an_uninterrupted_one(experiment, tmp_path, monkeypatch):
    whole = RunFolder(tmp_path / "whole")
    run(experiment, whole)
    cut = RunFolder(tmp_path / "cut")
    for num_rows_before_the_kill in (2, 9, 1, 13):
        appended = 0

        real_append = decode.evaluation.prediction_file.append_row

        def append_then_die(path, row, limit=num_rows_before_the_kill, real_append=real_append):
            nonlocal appended
            if appended == limit:
                with path.open("a") as file:
                    file.write(json.dumps(row)[:17])  # killed in the middle of a line
                raise KeyboardInterrupt
            appended += 1
            real_append(path, row)

        monkeypatch.setattr(decode.evaluation.prediction_file, "append_row", append_then_die)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, cut)
        monkeypatch.undo()
    run(experiment, cut)
    assert files(cut.path) == files(whole.path)


def test_a_finished_run_loads_and_generates_nothing(experiment, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    expected = run(experiment, folder)

    def refuse(*args, **kwargs):
        raise AssertionError("a finished run loaded or generated something")

    for name in ("load_pair", "load_weights", "load_tuned"):
        monkeypatch.setattr(decode.models.loaded, name, refuse)
    assert run(experiment, folder) == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_new_tokens": 5}, "max_new_tokens 6, and this recipe has 5"),
        ({"stop": ()}, r'stop \["z"\], and this recipe has \[\]'),
        ({"sampling": Sampling(1.0)}, "temperature 0.0, and this recipe has 1.0"),
        ({"questions": QUESTIONS[:5]}, "questions"),
    ],
)
def test_results_of_other_settings_are_not_continued(experiment, tmp_path, change, named):
    folder = RunFolder(tmp_path / "run")
    run(experiment, folder)
    before = files(folder.path)
    with pytest.raises(ValueError, match=named) as caught:
        run(changed(experiment, **change), folder)
    assert "choose another output_dir" in str(caught.value)
    assert files(folder.path) == before


@pytest.mark.long
def test_another_expert_in_the_same_place_is_noticed(experiment, save_model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(experiment, folder)
    save_model("expert", 17)
    with pytest.raises(ValueError, match="was made with expert"):
        run(experiment, folder)


@pytest.mark.long
def test_an_alpha_or_a_base_can_be_added_to_a_finished_run(experiment, save_model, tmp_path):
    folder = RunFolder(tmp_path / "run")
    before = run(experiment, folder)
    other = Contender("other", ModelSource(save_model("other", 8)), None)
    more = changed(
        experiment,
        alphas=(Alpha(0.5), Alpha(1.0), Alpha(2.0)),
        contenders=(*experiment.lineup.contenders, other),
    )
    after = run(more, folder)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {
        "proxy-large-alpha2",
        "base-other",
        "proxy-other-alpha0.5",
        "proxy-other-alpha1",
        "proxy-other-alpha2",
    }


@pytest.mark.long
def test_out_of_memory_halves_the_batch_and_repeats_nothing(
    experiment, tmp_path, monkeypatch, caplog
):
    expected = run(experiment, RunFolder(tmp_path / "whole"))
    real, calls = decode.backends.local.generate, []

    def short_of_memory(engine, requests):
        batch_size = engine._capacity
        calls.append((batch_size, len(requests)))
        for number, done in enumerate(real(engine, list(requests))):
            if batch_size > 1 and number == 2:
                raise torch.OutOfMemoryError("no room")
            yield done

    monkeypatch.setattr(decode.backends.local, "generate", short_of_memory)
    found = run(changed(experiment, batch_size=4), RunFolder(tmp_path / "short"))
    assert found == expected
    assert calls[:3] == [(4, 7), (2, 5), (1, 3)]
    assert "out of memory, going on with batches of 2" in caplog.text


def test_systems_come_in_the_order_that_loads_each_model_once(experiment):
    other = Contender("other", ModelSource("other"), ModelSource("other-tuned"))
    two = changed(experiment, contenders=(*experiment.lineup.contenders, other))
    roles = [system.role for system in two.lineup.systems]
    assert roles == ["antiexpert", "expert", *["base", "proxy", "proxy"] * 2, "tuned", "tuned"]


def test_check_finds_mistakes_before_weights_load(experiment, save_model):
    check(experiment)
    stranger = ModelSource(save_model("stranger", 3, extra=("<x>",), vocab_size=259))
    with pytest.raises(ValueError, match="different vocabularies: 1 ids differ"):
        check(changed(experiment, contenders=(Contender("large", stranger, None),)))
    with pytest.raises(ValueError, match="row 'q0' has 15 tokens; with 500 new ones"):
        check(changed(experiment, max_new_tokens=500))
    with pytest.raises(ValueError, match="no chat template"):
        check(changed(experiment, expert_prompt=PromptForm(True)))
    written = {"trained_template": "{{ messages[0].content }}", "expert_prompt": PromptForm(True)}
    check(changed(experiment, **written))  # by the training of the expert
    with pytest.raises(ValueError, match="no chat template"):
        check(changed(experiment, **written, expert_is_there=True))
    (contender,) = experiment.lineup.contenders
    later = ModelSource(str(Path(stranger.name).with_name("later")))
    untuned = replace(contender, tuned=later, tuned_is_there=False, tuned_prompt=PromptForm(True))
    with pytest.raises(ValueError, match=r"'.*large' has no chat template"):  # nor will it have one
        check(changed(experiment, contenders=(untuned,)))


@pytest.mark.long
def test_decoding_figures_are_kept_and_reported(experiment, tmp_path):
    folder = RunFolder(tmp_path / "run")
    few = changed(experiment, num_draft_tokens=2, max_new_tokens=20, stop=())
    predictions = run(few, folder)
    decoding = measure(few, predictions, folder).decoding
    assert set(decoding) == set(predictions)
    proxy, base = decoding["proxy-large-alpha1"], decoding["base-large"]
    assert proxy.num_rows == base.num_rows == len(QUESTIONS)
    assert proxy.num_tokens == sum(r["num_tokens"] for r in predictions["proxy-large-alpha1"])
    assert sum(proxy.accepted_drafts) > 0
    assert proxy.tokens_per_verify is not None and 1 <= proxy.tokens_per_verify <= 3
    assert base.tokens_per_verify == 1
    assert base.acceptance_rate is None
    assert {"prefill", "draft", "verify", "choose"} == set(proxy.seconds)
    assert proxy.tokens_per_second is not None and proxy.tokens_per_second > 0
    assert proxy.peak_memory_gib > 0


@pytest.mark.long
def test_drafts_change_no_prediction_and_may_change_in_a_finished_run(experiment, tmp_path):
    folder = RunFolder(tmp_path / "run")
    plain = run(changed(experiment, num_draft_tokens=0), folder)
    assert run(changed(experiment, num_draft_tokens=3), folder) == plain
    assert run(changed(experiment, num_draft_tokens=3), RunFolder(tmp_path / "drafts")) == plain


@pytest.mark.long
def test_a_rule_makes_another_proxy_beside_that_of_the_formula(experiment, tmp_path):
    folder = RunFolder(tmp_path / "run")
    plain = run(experiment, folder)
    for rule in (Rule(warmup_tokens=4), Rule("expert", 0.5), Rule(by_doubt=True)):
        ruled = changed(experiment, alphas=(Alpha(1.0, rule),))
        found = run(ruled, folder)
        assert found["expert"] == plain["expert"]
        assert list(found)[3] == f"proxy-large-alpha1-{rule.name}"
        assert found[f"proxy-large-alpha1-{rule.name}"] != plain["proxy-large-alpha1"]
        proxy = measure(ruled, found, folder).bases[0].proxy[0]
        assert (proxy.alpha, proxy.rule) == (1.0, rule.name)


@pytest.mark.long
def test_more_experts_are_part_of_what_decides_a_proxy(experiment, save_model, tmp_path):
    plain = run(experiment, RunFolder(tmp_path / "plain"))
    other = ModelSource(save_model("other", 5))
    more = (ExpertSource(other, experiment.lineup.antiexpert, 0.5),)
    other_run = changed(experiment, more_experts=more)
    found = run(other_run, RunFolder(tmp_path / "more"))
    assert found["expert"] == plain["expert"]
    assert found["proxy-large-alpha1"] != plain["proxy-large-alpha1"]
    with pytest.raises(ValueError, match="was made with more_experts"):
        run(other_run, RunFolder(tmp_path / "plain"))


def test_more_experts_must_speak_the_bases_language(experiment, save_model):
    stranger = ModelSource(save_model("stranger", 3, extra=("<x>",), vocab_size=259))
    more = (ExpertSource(stranger, experiment.lineup.antiexpert, 1.0),)
    with pytest.raises(ValueError, match="base and expert have different vocabularies"):
        check(changed(experiment, more_experts=more))


def test_a_question_of_megabytes_is_refused_by_its_beginning(experiment, monkeypatch):
    lengths = []
    encode_all = RoleTokenizers.encode_all

    def counted(tokenizers, prompt):
        lengths.append(len(prompt.base))
        return encode_all(tokenizers, prompt)

    monkeypatch.setattr(RoleTokenizers, "encode_all", counted)
    long = Question("q1", "What is " * 1_000_000, ("a",))
    with pytest.raises(ValueError, match=r"row 'q1' has \d+ or more tokens; .* longer than the"):
        check(changed(experiment, questions=[QUESTIONS[0], long]))
    assert max(lengths) < 100_000
