"""Prompts, completions, scores and errors of every task; the mini rows; real rows where present."""

import json
import re
from pathlib import Path

import pytest
from support.task_rows import train_rows

from data import TASKS
from data.tasks.answers import cut, last_number, normalize, same_number
from data.tasks.gsm8k import score_as_paper as gsm8k_as_paper
from data.tasks.triviaqa import score_as_paper as triviaqa_as_paper

MINI = Path(__file__).parents[1] / "data" / "mini"
REAL = Path(__file__).parents[2] / "shared" / "datasets"


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 7-3=4 and -3", "-3"),
        ("7-3", "3"),
        ("it costs $1,250.00.", "1250.00"),
        ("1, 2, 3", "3"),
        ("half is .5 of it", ".5"),
        ("18. Then", "18"),
        ("none at all", ""),
        (r"\boxed{9{,}500}.", "9500"),
        (r"9,\!500 and 1\,250\,000", "1250000"),
        ("70\u202f000", "70000"),
        ("\u22125 degrees", "-5"),
        ("it falls to \u20135", "-5"),
        ("-$18.50", "-18.50"),
        (r"\$-3", "-3"),
        ("$18-$20", "20"),
        ("5\u20138 pens", "8"),
        ("GPT-4", "4"),
        ("1,2 or 3, 4", "4"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == number


def test_numbers_are_compared_by_value():
    assert same_number("18.00", "18")
    assert same_number(".50", "0.5")
    assert not same_number("18", "18.5")
    assert not same_number("", "")


def test_normalize():
    assert normalize("  The Beatles! ") == "beatles"
    assert normalize("An apple a day") == "apple day"
    assert normalize(".fr") == "fr"


@pytest.mark.parametrize(
    ("text", "normalized"),
    [  # by the evaluation script of TriviaQA's authors
        ("Jay-Z", "jay z"),
        ("AC/DC", "ac dc"),
        ("R.E. Turner", "r e turner"),
        ("O'Neill", "o neill"),
        ("snake_case", "snake case"),
        ("the_end", "end"),
        ("\u2018Tis `so\u00b4", "tis so"),
        ("A-Team", "team"),
        ("Panic! At the Disco", "panic at disco"),
        ("Theatre \u2013 Anthem", "theatre \u2013 anthem"),
        ("The The", ""),
    ],
)
def test_normalize_makes_spaces_of_punctuation(text, normalized):
    assert normalize(text) == normalized


def test_cut_takes_the_earliest_mark():
    assert cut("one Comment: two Question: three", ("Question:", "Comment:")) == "one "
    assert cut("one", ("Question:",)) == "one"


def test_gsm8k_rows(tmp_path):
    question, answer = "How much?", "5*3=$<<5*3=15>>15\nTotal 1,015.\n#### 1,015"
    path = jsonl(tmp_path / "rows.jsonl", {"id": "g1", "question": question, "answer": answer})
    (train,) = train_rows(TASKS["gsm8k"], path)
    assert train.prompt == "Answer the following question.\n\nQuestion: How much?\nAnswer:"
    assert train.completion == " 5*3=$15\nTotal 1,015.\n#### 1,015"
    (row,) = TASKS["gsm8k"].eval_rows(path)
    assert (row.id, row.prompt, row.answers) == ("g1", train.prompt, ("1015",))


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        (" 9*2=18\n#### 18", 1.0),
        (" She makes $18.00 a day.", 1.0),
        (" 18\n\nQuestion: And 3 more?\nAnswer: 21", 1.0),
        (" 18 Comment: 5", 1.0),
        (" 18\nAnswer the following question. 4", 1.0),
        (" 17", 0.0),
        ("", 0.0),
        (" #### 18\nHe has 5 pens left.", 1.0),  # what follows does not count
        (" #### 18. I hope this helps in 2 ways", 1.0),
        (" #### $18.00", 1.0),
        (" #### 9 pens\n#### 18", 1.0),
        (" #### 9+9=18\nThat took 2 steps.", 1.0),
        (" #### **18**\nThat took 3 steps.", 1.0),
        (" #### Step 1\n9*2=18", 1.0),  # a heading
        (" 18\n####", 1.0),
        (" #### 1. She has 9.\n#### 2. So 9*2 is 18.", 1.0),  # a list
        (" #### 18 (rounded from 17.6)", 1.0),  # and so do asides
        (" #### 18 pens and 3 pencils", 1.0),
        (" #### 18, since 3 of 21 are gone", 1.0),
        (" #### 9+9=18 (two boxes of 9)", 1.0),
        (" #### 9 pens + 9 pens = 18 pens, 2 boxes", 1.0),
        (" #### 18 (= 9 + 9)", 1.0),
        (" #### 2 * 9 = USD 18", 1.0),
        (" #### 9 pens\n#### 18 (rounded from 17.6)", 1.0),
        (" #### 17 (not 18)", 0.0),
        (" #### 17\nSo it is 18.", 0.0),
    ],
)
def test_gsm8k_score(completion, value):
    assert TASKS["gsm8k"].score(completion, ("18",)).value == value


def test_gsm8k_paper_score_compares_text():
    assert gsm8k_as_paper(" 18.00", ("18",)).value == 0.0
    assert gsm8k_as_paper(" 18", ("18",)).value == 1.0


def test_triviaqa_rows_of_both_shapes(tmp_path):
    local = {"id": "t1", "question": "Who?", "answers": ["The Beatles", "Beatles"]}
    hub = {
        "question_id": "t2",
        "question": "Who?",
        "answer": {"value": "Abba", "aliases": ["ABBA"], "normalized_aliases": ["abba"]},
    }
    path = jsonl(tmp_path / "rows.jsonl", local, hub)
    first, second = train_rows(TASKS["triviaqa"], path)
    assert first.prompt == second.prompt == "Question: Who?\nAnswer:"
    assert (first.completion, second.completion) == (" The Beatles\n", " Abba\n")
    rows = TASKS["triviaqa"].eval_rows(path)
    assert [row.id for row in rows] == ["t1", "t2"]
    assert rows[1].answers == ("Abba", "ABBA", "abba")


def test_triviaqa_takes_one_answer_as_text(tmp_path):
    path = jsonl(tmp_path / "own.jsonl", {"question": "Who?", "answer": "Ringo"})
    ((row, completion),) = TASKS["triviaqa"].validation_rows(path, 1)
    assert (row.id, row.answers) == (f"{path}, line 1", ("Ringo",))
    assert completion == " Ringo\n"


def test_own_questions_are_asked_and_scored_as_triviaqas(tmp_path):
    rows = [{"question": "Who?", "answer": "Ringo"}, {"question": "Where?", "answers": ["A", "B"]}]
    path = jsonl(tmp_path / "own.jsonl", *rows)
    task, other = TASKS["questions"], TASKS["triviaqa"]
    assert task.eval_rows(path) == other.eval_rows(path)
    assert train_rows(task, path) == train_rows(other, path)
    same = ("metric", "stop", "max_new_tokens", "score")
    assert all(getattr(task, name) == getattr(other, name) for name in same)
    with pytest.raises(ValueError, match="'questions' has no rows of its own to be evaluated on"):
        task.eval_rows()
    with pytest.raises(ValueError, match="not one of the paper's"):
        task.scorer("paper")


def test_triviaqa_score():
    task, answers = TASKS["triviaqa"], ("The Beatles", "Fab Four")
    assert task.score(" beatles.\nQuestion:", answers).value == 1.0
    assert task.score(" the fab four", answers).value == 1.0
    assert task.score(" Rolling Stones", answers).value == 0.0
    assert task.score("", ("The",)).value == 0.0
    assert triviaqa_as_paper(" the beatles", answers).value == 1.0
    assert triviaqa_as_paper(" beatles.", answers).value == 0.0
    assert task.score(" Jay Z", ("Jay-Z",)).value == task.score(" jay-z.", ("Jay Z",)).value == 1.0
    assert triviaqa_as_paper(" Jay Z", ("Jay-Z",)).value == 0.0
    assert task.score(" the the", ("The The",)).value == 1.0
    assert task.score(" the", ("The The",)).value == 0.0
    assert task.score(" !!!", ("!!!",)).value == 1.0


TRUTHFUL = {
    "question": "What is in the box?",
    "best_answer": "A cat",
    "incorrect_answers": ["A dog.", "A cow", " A hen ", "A cat.", "A dog"],
}


def option(prompt, letter):
    """The text behind a letter of a multiple-choice prompt."""
    return re.search(rf"^{letter}\. (.*)$", prompt, re.MULTILINE)[1]


def test_truthfulqa_mc_rows(tmp_path):
    labels = {"A cat.": 1, "A dog.": 0, "A cow.": 0, "A hen.": 0}
    hub = {"choices": list(labels), "labels": list(labels.values())}
    path = jsonl(
        tmp_path / "rows.jsonl",
        {"id": "t1", **TRUTHFUL},
        {"question": TRUTHFUL["question"], "mc1_targets": labels},
        {"question": TRUTHFUL["question"], "mc1_targets": hub},
    )
    first, *others = TASKS["truthfulqa_mc"].eval_rows(path)
    assert first.id == "t1"
    (letter,) = first.answers
    assert option(first.prompt, letter) == "A cat."
    options = {option(first.prompt, letter) for letter in "ABCD"}
    assert options == {"A cat.", "A dog.", "A cow.", "A hen."}
    assert first.prompt.startswith("What is in the box?\nA. ")
    assert first.prompt.endswith("\n\nThe answer is:")
    # The question alone decides the order, wherever the row comes from.
    assert [(row.prompt, row.answers) for row in others] == [(first.prompt, first.answers)] * 2
    (train, *_) = train_rows(TASKS["truthfulqa_mc"], path)
    assert (train.prompt, train.completion) == (first.prompt, f" {letter}")


def test_truthfulqa_mc_draws_three_of_many_and_keeps_two(tmp_path):
    many = {**TRUTHFUL, "incorrect_answers": [f"A {number}" for number in range(9)]}
    few = {**TRUTHFUL, "incorrect_answers": ["A dog"]}
    path = jsonl(tmp_path / "rows.jsonl", many, {**many, "question": "And here?"}, few)
    rows = TASKS["truthfulqa_mc"].eval_rows(path)
    assert [len(re.findall(r"^[A-D]\. ", row.prompt, re.MULTILINE)) for row in rows] == [4, 4, 2]
    assert rows[0].prompt.split("\n")[1:] != rows[1].prompt.split("\n")[1:]


def test_realtimeqa_rows_of_both_shapes(tmp_path):
    local = {"question_id": "r1", "question": "Who?", "choices": ["X", "", "Y"], "answer": [2]}
    official = {"question_sentence": "Who?", "choices": ["X", "Y"], "answer": ["0", "1"]}
    path = jsonl(tmp_path / "rows.jsonl", local, official)
    first, second = TASKS["realtimeqa"].eval_rows(path)
    assert first.prompt == second.prompt == "Who?\nA. X\nB. Y\n\nThe answer is:"
    assert (first.id, first.answers) == ("r1", ("B",))
    assert second.answers == ("A", "B")
    assert train_rows(TASKS["realtimeqa"], path)[0].completion == " B"


def test_a_task_without_rows_of_its_own_says_what_to_name():
    with pytest.raises(ValueError, match=r"'realtimeqa' has no rows .* to train on; name a file"):
        train_rows(TASKS["realtimeqa"])
    with pytest.raises(ValueError, match=r"be evaluated on; name a file"):
        TASKS["realtimeqa"].eval_rows()


@pytest.mark.parametrize(
    "gold",
    ["18", "1,015", "1,00,000", "$18.00", "-$5", "\u22125", "9{,}500", "5 apples.", "25%", ".5"],
)
def test_a_gold_number_is_read_as_a_completion_is(tmp_path, gold):
    path = jsonl(tmp_path / "rows.jsonl", {"id": "g", "question": "?", "answer": f"#### {gold}"})
    for task in (TASKS["gsm8k"], TASKS["word_problems"]):
        (row,) = task.eval_rows(path)
        assert task.score(f" #### {gold}\nQuestion: 3?", row.answers).value == 1.0
        assert task.score(" #### 77", row.answers).value == 0.0


def test_facts_score():
    task = TASKS["facts"]
    assert task.score(" Paris\n", ("Paris",)).value == 1.0
    assert task.score(" fr", (".fr",)).value == 1.0
    assert task.score(" Paris is the capital of France.", ("Paris",)).value == 0.0


def test_word_problem_score_needs_the_mark():
    task = TASKS["word_problems"]
    assert task.score(" 12+7=19\n#### 19", ("19",)).value == 1.0
    assert task.score(" 12+7=19\n#### 18", ("19",)).value == 0.0
    assert task.score(" 12+7=19. The answer is 19.", ("19",)).value == 0.0
    assert task.score(" #### 3\nQuestion: 19 #### 19", ("19",)).value == 0.0


PAIRED = {"choices": ["x", "y"]}
BAD_ROWS = [
    ("gsm8k", {"question": "How much?", "answer": "no mark"}, "must end in '#### <number>'"),
    ("word_problems", {"id": "w", "question": "?", "answer": "5"}, "must end in '#### <number>'"),
    *(
        (task, {"id": "g", "question": "?", "answer": f"so\n#### {gold}"}, "end in '#### <number>'")
        for task in ("gsm8k", "word_problems")
        for gold in "1/2;0x1F;0xFF;1e3;1 1/2;5 or 6;3:30;1.2.3;1,5;--5;half;;7-3;\u00bd".split(";")
    ),
    ("triviaqa", {"question": "Who?", "answers": ["", "Abba"]}, "'answers' holds an empty answer"),
    ("triviaqa", {"question": "Who?", "answer": {"value": " "}}, "field 'value' is empty"),
    ("facts", {"id": "f", "question": "Where?", "answers": [" "]}, "holds an empty answer"),
    ("truthfulqa_mc", {"question": "?", "mc1_targets": PAIRED | {"labels": [1]}}, "must mark one"),
    ("truthfulqa_mc", {"question": "?", "mc1_targets": PAIRED | {"labels": 1}}, "must mark one"),
    ("truthfulqa", {"question": "?", "best_answer": " "}, "field 'best_answer' is empty"),
    ("instruct", {"instruction": "Do.", "output": "\n"}, "field 'output' is empty"),
    ("realtimeqa", {"question": "?", "choices": ["x", "y"], "answer": "01"}, "from 0 to 1"),
    ("realtimeqa", {"question": "?", "choices": ["x", "y"], "answer": [True]}, "from 0 to 1"),
    ("triviaqa", {"question": "Who?", "answer": " "}, "or give a list of text in 'answers'"),
    ("triviaqa", {"question": "Who?", "answer": ["Abba"]}, "'answer' must be text, or an object"),
    ("triviaqa", {"question": "Who?", "answer": {"aliases": []}}, "field 'value' is missing"),
    ("triviaqa", {"question": "Who?"}, "field 'answers' is missing"),
    ("facts", {"id": "f", "question": "Where?", "answers": []}, "must be a list of text"),
    ("facts", {"id": "f", "question": 5, "answers": ["x"]}, "field 'question' must be text"),
    ("truthfulqa_mc", {"question": "?", "best_answer": "x"}, "field 'incorrect_answers' is miss"),
    (
        "truthfulqa_mc",
        {"question": "?", "best_answer": "x", "incorrect_answers": ["x."]},
        "needs a best answer and an incorrect one that differs",
    ),
    ("truthfulqa_mc", {"question": "?", "mc1_targets": {"x": 1, "y": 1}}, "must mark one answer 1"),
    ("truthfulqa_mc", {"question": "?", "mc1_targets": 7}, "must mark one answer 1"),
    ("realtimeqa", {"choices": ["x", "y"], "answer": [0]}, "field 'question' is missing, and so"),
    ("realtimeqa", {"question": "?", "choices": ["x", "y"], "answer": [2]}, "from 0 to 1"),
    ("realtimeqa", {"question": "?", "choices": ["x", "y"], "answer": "x"}, "from 0 to 1"),
    ("realtimeqa", {"question": "?", "choices": ["x", "y"], "answer": []}, "from 0 to 1"),
    (
        "realtimeqa",
        {"question": "?", "choices": ["x", ""], "answer": [0]},
        "needs two to 4 choices",
    ),
]


@pytest.mark.parametrize(("task", "row", "message"), BAD_ROWS)
def test_bad_rows_are_named(tmp_path, task, row, message):
    path = jsonl(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1.*" + re.escape(message)):
        TASKS[task].eval_rows(path)


@pytest.mark.parametrize("name", TASKS)
def test_task_is_whole(name):
    task = TASKS[name]
    assert task.name == name
    assert task.max_new_tokens > 0
    if task.grade is None:
        assert task.metric in ("exact_match", "accuracy")
        assert task.scorer("default") is task.score
        assert not task.judges
    else:
        with pytest.raises(ValueError, match="graded after decoding, in one way only"):
            task.scorer("paper")


@pytest.mark.parametrize(("name", "num_train"), [("facts", 1000), ("word_problems", 2000)])
def test_mini_rows(name, num_train):
    """Every gold completion scores 1, and no question is in two splits."""
    task = TASKS[name]
    splits = {split: str(MINI / name / f"{split}.jsonl") for split in ("validation", "test")}
    prompts = [row.prompt for row in train_rows(task)]
    assert len(prompts) >= num_train
    for path, least in zip(splits.values(), (200, 400), strict=True):
        rows, golds = task.eval_rows(path), train_rows(task, path)
        assert len(rows) >= least
        assert all(
            task.score(gold.completion, row.answers).value == 1.0
            for row, gold in zip(rows, golds, strict=True)
        )
        prompts += [row.prompt for row in rows]
    assert len(set(prompts)) == len(prompts)


def test_mini_models_are_small_and_share_a_tokenizer():
    files = [path for path in MINI.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    vocabularies = [(MINI / name / "tokenizer.json").read_bytes() for name in ("small", "large")]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "num_train", "num_eval"), [("gsm8k", 7473, 1000), ("triviaqa", 5269, 1500)]
)
def test_real_rows(name, num_train, num_eval):
    task = TASKS[name]
    golds = train_rows(task, str(REAL / name / "train.jsonl"))
    rows = task.eval_rows(str(REAL / name / "train.jsonl"))
    assert len(golds) == len(rows) == num_train
    right = [
        task.score(gold.completion, row.answers).value
        for gold, row in zip(golds, rows, strict=True)
    ]
    assert all(right)
    assert len(task.eval_rows(str(REAL / name / "test.jsonl"))) == num_eval


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "file", "num_rows", "least"),
    [
        ("truthfulqa_mc", "truthfulqa/truthfulqa.jsonl", 500, 0.15),
        ("realtimeqa", "realtimeqa/qa.jsonl", 7326, 0.2),
    ],
)
def test_real_multiple_choice_rows(name, file, num_rows, least):
    task = TASKS[name]
    rows, golds = task.eval_rows(str(REAL / file)), train_rows(task, str(REAL / file))
    assert len(rows) == num_rows
    assert len({row.id for row in rows}) == num_rows
    for row, gold in zip(rows, golds, strict=True):
        assert task.score(gold.completion, row.answers).value == 1.0
        assert task.scorer("paper")(gold.completion, row.answers).value == 1.0
    for letter in "ABCD":  # no place is the right one much too often
        share = sum(row.answers == (letter,) for row in rows) / num_rows
        assert least < share < 0.3
