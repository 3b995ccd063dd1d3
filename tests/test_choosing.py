"""Alpha and rule chosen on validation rows: by halving, resumable, reported on other rows."""

import json
from dataclasses import replace

import pytest
from support.runs import run
from test_experiment import Question, experiment  # noqa: F401 (a fixture)

import decode.backends.local
from decode.engine.rule import PAPER, Alpha, Rule
from decode.evaluation.choice_file import read_choices
from decode.evaluation.choosing import choose_all, rungs, survivors
from decode.evaluation.experiment import Choosing
from decode.evaluation.lineup import System
from decode.evaluation.metric import Metric
from decode.evaluation.summary import measure, with_further_tasks
from decode.jobs.files import FileChanged, read_json, write_json, write_rows
from decode.jobs.folder import RunFolder, SettingsChanged
from decode.reports.findings import findings
from decode.reports.report import write_report
from decode.reports.tables import closing_table
from decode.stage.planning import plan
from decode.stage.validation import chosen_in, with_choice
from decode.tracking.dashboard import result_values
from recipes.schema.recipe import RecipeError, load_recipe

EXACT_MATCH = Metric("exact_match")
RULE = Rule("expert", 0.5)
CANDIDATES = (Alpha(0.5), Alpha(1.0), Alpha(1.0, RULE), Alpha(3.0))


def rows(num_right: int, num_rows: int = 40) -> list[float | None]:
    return [1.0] * num_right + [0.0] * (num_rows - num_right)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 7, 10, 200])
def test_rungs_are_all_rows_once(num_rows):
    found = [row for part in rungs(num_rows) for row in range(num_rows)[part]]
    assert found == list(range(num_rows))
    assert all(len(range(num_rows)[part]) > 0 for part in rungs(num_rows))


def test_the_better_half_goes_on_and_of_equals_the_first():
    values = {Alpha(n): rows(right) for n, right in enumerate((20, 30, 31, 30, 29, 20), start=1)}
    left = survivors(values, EXACT_MATCH, "facts")
    assert [alpha.value for alpha in left] == [3, 2, 4]
    assert survivors({Alpha(1): rows(9), Alpha(2): rows(9)}, EXACT_MATCH, "t")[0] == Alpha(1)


def test_the_same_scores_in_another_order_are_equal():
    values = {Alpha(1): [0.2, 0.3, 0.1], Alpha(2): [0.1, 0.2, 0.3]}
    assert survivors(values, EXACT_MATCH, "t")[0] == Alpha(1)


def test_one_that_is_clearly_behind_is_dropped_at_once():
    values = {Alpha(1): rows(35), Alpha(2): rows(5), Alpha(3): rows(4)}
    assert survivors(values, EXACT_MATCH, "facts") == [Alpha(1)]


def test_on_a_few_rows_nobody_falls_clearly_behind():
    values = {Alpha(1): rows(5, 5), Alpha(2): rows(0, 5), Alpha(3): rows(0, 5)}
    assert survivors(values, EXACT_MATCH, "facts") == [Alpha(1), Alpha(2)]


def test_where_a_low_value_is_good_the_lowest_is_chosen():
    values = {Alpha(1): rows(10), Alpha(2): rows(9)}
    assert survivors(values, Metric("toxic", higher_is_better=False), "t")[0] == Alpha(2)


def test_rows_that_judges_left_open_count_for_no_candidate():
    values = {Alpha(1): [1.0, None, 0.0, 0.0], Alpha(2): [0.0, 1.0, 1.0, 0.0]}
    values |= {Alpha(3): [0.0, 1.0, 0.0, None]}
    # on the two rows that count, 1 and 2 are right once each
    assert survivors(values, EXACT_MATCH, "t") == [Alpha(1), Alpha(2)]


@pytest.fixture
def choosing(experiment):  # noqa: F811
    validation = [Question(f"v{i}", f"Validation {i}?", ("a", "b", "c")) for i in range(8)]
    return replace(experiment, choosing=Choosing(validation, CANDIDATES, "rows.jsonl"))


def test_of_equals_the_first_listed_is_chosen_whoever_led_before(choosing, tmp_path, monkeypatch):
    right = {  # of rows 0-1, 2-3, 4-7
        Alpha(0.5): ([0, 0], [1, 1], [1, 1, 1, 0]),
        Alpha(1.0): ([1, 0], [1, 1], [1, 1, 0, 0]),
        Alpha(1.0, RULE): ([0, 0], [0, 0], [0, 0, 0, 0]),
        Alpha(3.0): ([0, 0], [0, 0], [0, 0, 0, 0]),
    }
    names = {System("proxy", choosing.lineup.contenders[0], alpha).name: alpha for alpha in right}
    at_rung = iter(range(3))

    def complete(given):
        rung = next(at_rung)
        return [{name: right[alpha][rung] for name, alpha in names.items()} for _ in given]

    monkeypatch.setattr("decode.evaluation.choosing.run_all", complete)
    monkeypatch.setattr(
        "decode.evaluation.choosing.question_values", lambda _, right: [float(n) for n in right]
    )
    assert choose_all(choosing, RunFolder(tmp_path / "run"))["large"].alpha == 0.5


def test_a_choice_is_kept_resumed_and_reported(choosing, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    choices = choose_all(choosing, folder)
    choice = choices["large"]
    assert read_choices(folder.choice) == choices
    assert choice.num_rows == 8 and choice.rows == "rows.jsonl"
    assert [(tried.alpha, tried.rule) for tried in choice.tried] == [
        (alpha.value, alpha.rule.name) for alpha in CANDIDATES
    ]
    assert max(tried.num_rows for tried in choice.tried) == 8
    assert sum(tried.behind is None for tried in choice.tried) == 1
    rung = folder.rung("large", 1)
    assert sorted(p.stem for p in rung.path.glob("predictions/*.jsonl")) == sorted(
        f"proxy-large-alpha{a.value:g}{'-' * bool(a.rule.name)}{a.rule.name}" for a in CANDIDATES
    )

    def refuse(*_, **__):
        raise AssertionError("a row was decoded again")

    monkeypatch.setattr(decode.backends.local, "generate", refuse)
    folder.choice.unlink()
    assert choose_all(choosing, folder) == choices
    monkeypatch.undo()

    chosen = with_choice(choosing, folder)
    assert (
        chosen.lineup.chosen == chosen_in(folder) == {"large": Alpha(choice.alpha, _rule(choice))}
    )
    predictions = run(chosen, folder)
    metrics = measure(chosen, predictions, folder)
    base = metrics.bases[0]
    assert base.choice == choice
    assert (base.headline.alpha, base.headline.rule) == (choice.alpha, choice.rule)
    assert f"chosen on {choice.num_rows} validation rows" in " ".join(findings(metrics))
    assert "picked on these very rows" not in closing_table(metrics)
    assert "* chosen on validation rows" in closing_table(metrics)
    assert result_values(metrics)["eval/letters/chosen/large"] == base.headline.value
    (folder.path / "plots").mkdir(exist_ok=True)
    write_report(folder.path, metrics, predictions, {"name": "x"}, {})
    text = (folder.path / "report.md").read_text()
    assert "## How alpha and rule were chosen" in text
    assert "| 1 | expert0.5 |" in text


def _rule(choice) -> Rule:
    return Rule(**choice.settings)


def test_a_chosen_rule_is_a_system_of_its_own_and_a_listed_one_is_not_decoded_twice(choosing):
    lineup = choosing.lineup
    (contender,) = lineup.contenders
    names = [system.name for system in lineup.systems]
    listed = replace(lineup, chosen={"large": Alpha(0.5)})
    assert [system.name for system in listed.systems] == names
    assert listed.headline(contender) == Alpha(0.5)
    other = replace(lineup, chosen={"large": Alpha(1.0, RULE)})
    assert [system.name for system in other.systems if system.name not in names] == [
        "proxy-large-alpha1-expert0.5"
    ]
    assert other.headline(contender) == Alpha(1.0, RULE)
    assert lineup.headline(contender) == Alpha(1.0, PAPER)


def test_tasks_that_choose_differently_share_a_run(choosing, tmp_path):
    """What only one task chose is decoded for it alone, and the mean is over the chosen ones."""
    from decode.evaluation.predict import run_all

    plan_ = []
    for name, alpha in (("one", Alpha(0.5)), ("two", Alpha(1.0, RULE))):
        folder = RunFolder(tmp_path / name)
        own = replace(choosing, task=name, choosing=replace(choosing.choosing, candidates=(alpha,)))
        choose_all(own, folder)
        plan_.append((with_choice(own, folder), folder))
    one, two = run_all(plan_)
    assert set(two) - set(one) == {"proxy-large-alpha1-expert0.5"}
    measured = [measure(e, p, f) for (e, f), p in zip(plan_, (one, two), strict=True)]
    means = with_further_tasks(measured, ["two"]).mean_gap_closed
    assert [(mean.alpha, mean.rule) for mean in means] == [(0.5, ""), (1.0, ""), (None, "")]


def test_a_choice_that_was_edited_is_not_believed(choosing, tmp_path):
    folder = RunFolder(tmp_path / "run")
    choose_all(choosing, folder)
    found = read_json(folder.choice)
    found["large"]["alpha"] = 2.5
    folder.choice.write_text(json.dumps(found))
    with pytest.raises(FileChanged, match="not what the run wrote"):
        with_choice(choosing, folder)


FACTS = "recipes/mini/facts.yaml"
VALIDATION = "data/mini/facts/validation.jsonl"


def planned(tmp_path, *overrides):
    return plan(load_recipe(FACTS, [f"output_dir={tmp_path}", *overrides]))[0][0]


def test_a_recipe_names_rows_alphas_and_rules(tmp_path):
    choose = f"{{rows: {VALIDATION}, limit: 20, alpha: [0.5, 1], rule: [null, {{by_doubt: true}}]}}"
    found = planned(tmp_path, f"decode.choose={choose}", "decode.rule={plausible_to: expert}")
    assert found.choosing is not None
    assert len(found.choosing.questions) == 20
    doubt = Rule(by_doubt=True)
    assert found.choosing.candidates == (
        Alpha(0.5), Alpha(1.0), Alpha(0.5, doubt), Alpha(1.0, doubt),
    )  # fmt: skip
    assert {alpha.rule for alpha in found.lineup.alphas} == {Rule("expert")}


def test_a_share_of_the_evaluation_rows_is_set_apart(tmp_path):
    whole = planned(tmp_path).questions
    found = planned(tmp_path, "decode.choose={rows: 0.25, alpha: 1.0}")
    apart, left = found.choosing.questions, found.questions
    assert len(apart) == round(len(whole) / 4)
    assert sorted([*apart, *left], key=whole.index) == list(whole)
    again = planned(tmp_path, "decode.choose={rows: 0.25, alpha: 1.0}")
    assert [row.id for row in again.questions] == [row.id for row in left]


@pytest.mark.parametrize(
    ("choose", "problem"),
    [
        ("{rows: data/mini/facts/test.jsonl, alpha: 1}", "400 of 400 are evaluation rows as well"),
        ("{rows: nowhere.jsonl, alpha: 1}", "decode.choose.rows: nowhere.jsonl"),
        ("{rows: {}, alpha: 1}", "decode.choose.rows: has none for 'facts'"),
        (
            "{rows: {facts: 0.5, gsm8k: 0.5}, alpha: 1}",
            r"decode.choose.rows.gsm8k: the recipe evaluates no such task \(facts\)",
        ),
        ("{rows: 1.5, alpha: 1}", "found 1.5; a share must be above 0 and below 1$"),
        ("{rows: true, alpha: 1}", "found true; a file, or a share"),
        ("{rows: 0.0001, alpha: 1}", "leaves no rows to choose by"),
        ("{rows: 0.5, alpha: []}", "expected a number or a list of at least one number"),
        ("{rows: 0.5, alpha: [1, 1.0]}", "each alpha may be listed once"),
        ("{rows: 0.5, alpha: 1, rule: [null, {}]}", "each rule may be listed once"),
        ("{rows: 0.5, alpha: 1, rule: [{plausible_share: 2}]}", "less than or equal to 1"),
        ("{rows: 0.5, alpha: 1, rule: [{plausible: expert}]}", "unknown key"),
        (
            "{rows: 0.5, alpha: 1, rule: [null, {plausible_share: 0.2}]}",
            r"decode.choose.rule.1.plausible_share.*has no effect: plausible_to is null",
        ),
    ],
)
def test_what_cannot_be_chosen_from_is_one_line(tmp_path, choose, problem):
    with pytest.raises((RecipeError, ValueError), match=problem) as error:
        planned(tmp_path, f"decode.choose={choose}")
    assert len(str(error.value).splitlines()) == 1


def test_the_warm_up_of_earlier_recipes_is_a_rule(tmp_path):
    recipe = load_recipe(FACTS, ["decode.alpha_warmup_tokens=4"])
    assert recipe.decode.rule is not None and recipe.decode.rule.warmup_tokens == 4
    assert load_recipe(FACTS, ["decode.alpha_warmup_tokens=0"]).decode.rule is None
    with pytest.raises(RecipeError, match=r"is rule\.warmup_tokens now"):
        load_recipe(FACTS, ["decode.alpha_warmup_tokens=4", "decode.rule={by_doubt: true}"])


def facts(path, *questions):
    rows_ = [{"id": id_, "question": asked, "answers": ["x"]} for id_, asked in questions]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows_))
    return path


def test_validation_rows_of_one_id_are_refused(tmp_path):
    """A file of predictions has one row an id, so that one of them would answer for both."""
    path = facts(tmp_path / "rows.jsonl", ("a", "Who?"), ("b", "What?"), ("a", "Where?"))
    with pytest.raises(ValueError, match=r"decode\.choose\.rows: row id 'a' is there twice in"):
        planned(tmp_path / "run", f"decode.choose={{rows: {path}, alpha: 1}}")


def test_an_evaluation_question_in_another_spelling_chooses_nothing(tmp_path):
    asked = facts(tmp_path / "test.jsonl", ("a", "Who wrote 'Emma'?"), ("b", "Who was Austen?"))
    rows_ = facts(tmp_path / "rows.jsonl", ("v", "Who?"), ("w", "  who  wrote \u2018EMMA\u2019 ?"))
    with pytest.raises(ValueError, match=r"1 of 2 are evaluation rows as well \(the first is 'w'"):
        planned(
            tmp_path / "run", f"task.eval={asked}", f"decode.choose={{rows: {rows_}, alpha: 1}}"
        )


def test_a_share_keeps_a_repeated_question_on_one_side(tmp_path):
    spelt = [(f"{n}{who}", f"{who} {n}?") for n in range(10) for who in ("who", "Who")]
    asked = facts(tmp_path / "test.jsonl", *spelt)
    found = planned(tmp_path / "run", f"task.eval={asked}", "decode.choose={rows: 0.3, alpha: 1}")
    apart, left = found.choosing.questions, found.questions
    assert len(apart) == 6 and len(left) == 14
    assert not {row.id[0] for row in apart} & {row.id[0] for row in left}


def test_alpha_0_is_one_candidate_whatever_the_rules(tmp_path):
    choose = f"{{rows: {VALIDATION}, alpha: [0, 1], rule: [{{by_doubt: true}}, null]}}"
    found = planned(tmp_path, f"decode.choose={choose}").choosing.candidates
    assert found == (Alpha(0.0), Alpha(1.0, Rule(by_doubt=True)), Alpha(1.0))


def test_a_choice_by_other_rows_says_what_to_delete(tmp_path):
    rung = RunFolder(tmp_path / "run").rung("large", 1)
    write_rows(rung.predictions("proxy"), [{"id": "v0"}])
    write_json(rung.settings(rung.predictions("proxy")), {"questions": "then"})
    with pytest.raises(SettingsChanged, match=rf"or delete {tmp_path}/run/choice to make it again"):
        rung.claim(rung.predictions("proxy"), {"questions": "now"})
