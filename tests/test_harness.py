"""Proxy-tuned models in lm-eval: what needs it is skipped where it is not installed."""

import json
import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.models import byte_tokenizer, save_tiny
from support.rows import jsonl
from tokenizers.processors import TemplateProcessing

from decode import Continuation, ModelSource, ProxyTuned
from decode.engine.rule import Alpha
from decode.evaluation.lineup import Contender, Lineup
from decode.jobs.folder import RunFolder
from decode.models.loaded import ExpertSource
from decode.stage.chosen_system import chosen_system, lineup_of_run, models_of
from recipes.schema.recipe import load_recipe, save_recipe

ROOT = Path(__file__).resolve().parents[1]
needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval")
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{{ '<a>' if add_generation_prompt }}"
)
PAIRS = [
    ("Question: 1+1=", " 2"),
    ("Question: 1+1=", " 3"),
    ("trailing spaces move  ", "to the continuation"),
    ("a line ends\n", "x"),
    ("", "no context"),
    ("<eos>the first token is there", " already"),
    ("far longer than the models can hold, " * 6, "cut from the left"),
    ("a" * 90, "b"),
]
TEXTS = ["", "short", "one window and a bit more of it " * 3, "x" * 64, "y" * 190]
ASKED = [
    ("hello", {"until": ["e", "\n\n"], "max_gen_toks": 12}),
    ("Q: what?\nA:", {"until": "q", "max_gen_toks": 20, "do_sample": False, "temperature": 0.7}),
    ("cut from the left " * 9, {"until": [], "max_gen_toks": 9}),
    ("no stop", {"max_new_tokens": 5, "num_beams": 1}),
]


def lineup(*slugs: str, **options) -> Lineup:
    expert = ExpertSource(ModelSource("runs/x/expert"), ModelSource("small"))
    contenders = (Contender(slug, ModelSource(slug), ModelSource("t" + slug)) for slug in slugs)
    return Lineup((expert,), tuple(contenders), alphas=(Alpha(0.5), Alpha(1.5)), **options)


def test_a_system_is_chosen_by_role_base_and_alpha():
    one, two = lineup("b"), lineup("b", "c")
    assert chosen_system(one, "proxy", None).name == "proxy-b-alpha0.5"
    assert chosen_system(one, "proxy", 2).name == "proxy-b-alpha2"
    assert chosen_system(two, "proxy-c", 1.0).name == "proxy-c-alpha1"
    assert chosen_system(two, "proxy-c-alpha1.5", None).alpha == Alpha(1.5)
    assert chosen_system(two, "tuned-b", None).role == "tuned"
    assert chosen_system(two, "expert", None).contender is None
    for line, *asked in (
        ("system: found 'proxi'; there are antiexpert, expert, base, base-b, ", "proxi", None),
        ("several bases; take one of proxy-b, proxy-c", "proxy", 1.0),
        ("several bases; take one of base-b, base-c", "base", None),
        ("alpha: found 1; system 'base-b' takes none", "base-b", 1.0),
        ("alpha: found 1; system 'proxy-b-alpha1.5' takes none", "proxy-b-alpha1.5", 1.0),
    ):
        with pytest.raises(ValueError, match="^[^\n]*" + line.replace("+", r"\+")):
            chosen_system(two, *asked)


def test_only_models_of_the_system_have_to_be_there(tmp_path):
    unfinished, finished = lineup("b"), lineup("b", expert_is_there=True)
    names = [source.name for source in models_of(finished, chosen_system(finished, "proxy", 1.0))]
    assert names == ["b", "runs/x/expert", "small"]
    assert len(models_of(unfinished, chosen_system(unfinished, "base", None))) == 1
    assert len(models_of(unfinished, chosen_system(unfinished, "tuned", None))) == 1
    for name in ("proxy", "expert"):
        with pytest.raises(ValueError, match="runs/x/expert: not there yet; train it with"):
            models_of(unfinished, chosen_system(unfinished, name, None))


def test_a_run_that_was_moved_has_its_models(recipe, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is no run folder; it has no recipe\.yaml"):
        lineup_of_run(RunFolder(tmp_path / "nowhere"))
    moved = RunFolder(tmp_path / "moved # here")
    moved.path.mkdir()
    save_recipe(load_recipe(recipe()), moved.recipe)
    found = lineup_of_run(moved)
    assert found.expert.name == str(tmp_path / "expert")
    assert [contender.slug for contender in found.contenders] == ["large"]


def harness(*arguments: str) -> str | int | None:
    """What `python decode/harness.py ...` exits with."""
    kept = sys.argv
    sys.argv = ["decode/harness.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "decode/harness.py"), run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
    finally:
        sys.argv = kept
    return None


def test_without_lm_eval_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert harness() == 'error: this needs lm-eval: pip install -e ".[eval]"'


@pytest.fixture(params=["llama", "gpt2", "bos"])
def trio(request, tmp_path):
    """Folders of base, expert and anti-expert that hold 64 tokens; with `bos`, texts begin so."""
    options = {"n_positions": 64} if request.param == "gpt2" else {"max_position_embeddings": 64}
    kind = {"architecture": "gpt2"} if request.param == "gpt2" else {}
    extra = ("<s>",) if request.param == "bos" else ()
    size = {"vocab_size": 258 + len(extra)}
    folders = [
        save_tiny(tmp_path / name, seed, extra, sharpness=3.0, **size, **kind, **options)
        for seed, name in enumerate(("base", "expert", "small"))
    ]
    if extra:
        tokenizer = byte_tokenizer(extra)
        tokenizer.bos_token = "<s>"
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 258)]
        )
        for folder in folders:
            tokenizer.save_pretrained(folder)
    return folders


def requests(kind: str, arguments: list) -> list:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(kind, {}, own, number) for number, own in enumerate(arguments)]


def system(trio, **options):
    from decode.stage.harness_system import HarnessSystem

    base, expert, antiexpert = trio
    given = {"base": base, "expert": expert, "antiexpert": antiexpert, "batch_size": 3}
    return HarnessSystem(**{**given, "device": "cpu", **options})


def their(folder, **options):
    """lm-eval's own model type."""
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    return HFLM(folder, device="cpu", dtype="float32", **options)


@needs_lm_eval
def test_at_alpha_zero_it_is_their_own_model_on_the_base(trio):
    ours = system(trio, alpha=0.0)
    theirs = their(trio[0], max_length=ours.max_length, batch_size=2)
    for asked in (requests("loglikelihood", PAIRS), requests("loglikelihood", PAIRS[:1])):
        found, expected = ours.loglikelihood(asked), theirs.loglikelihood(asked)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
        assert [value for value, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)
    texts = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    found = ours.loglikelihood_rolling(texts)
    assert found == pytest.approx(theirs.loglikelihood_rolling(texts), abs=1e-3)
    asked = requests("generate_until", ASKED)
    one_by_one = their(trio[0], max_length=ours.max_length)  # in batches their rows run on
    assert ours.generate_until(asked) == one_by_one.generate_until(asked)
    assert {type(text) for text in ours.generate_until(asked)} == {str}


@needs_lm_eval
def test_contexts_are_as_long_as_their_own_models(trio):
    ours, theirs = system(trio, alpha=0.0), their(trio[0])
    is_table = "gpt2" in (Path(trio[0]) / "config.json").read_text()
    assert ours.max_length == theirs.max_length - is_table
    assert system(trio, max_length=20).max_length == 20
    with pytest.raises(ValueError, match=r"has \d+ tokens; 1 to 20 can be scored"):
        system(trio, max_length=20).loglikelihood(requests("loglikelihood", [("a", "b" * 30)]))
    with pytest.raises(ValueError, match="max_gen_toks: found 256; the models hold 20 tokens"):
        system(trio, max_length=20).generate_until(requests("generate_until", [("a", {})]))


@needs_lm_eval
def test_log_likelihoods_are_the_engines_own_scores(trio):
    base, expert, antiexpert = trio
    model = ProxyTuned.from_pretrained(base, expert, antiexpert, alpha=0.7, device="cpu")
    pairs = [("Question: 1+1=", " 2"), ("once upon", " a time"), ("the end", ".")]
    tokenizer = model.tokenizers.base
    given = [
        Continuation(n, a, tokenizer.encode(b, add_special_tokens=False))
        for n, (a, b) in enumerate(pairs)
    ]
    scored = {one.name: sum(one.logprobs) for one in model.completer().score(given)}
    found = system(trio, alpha=0.7).loglikelihood(requests("loglikelihood", pairs))
    assert [value for value, _ in found] == pytest.approx([scored[n] for n in range(3)], abs=1e-4)
    base_alone = system(trio, system="base").loglikelihood(requests("loglikelihood", pairs))
    assert abs(base_alone[1][0] - found[1][0]) > 0.1
    greedy = model.generate(["Question: 1+1="], max_new_tokens=6)[0]
    asked = requests("generate_until", [("Question: 1+1=", {"until": [], "max_gen_toks": 6})])
    assert system(trio, alpha=0.7).generate_until(asked) == [greedy.text]


@needs_lm_eval
def test_a_special_token_may_be_a_stop(save_model):
    extra = ("<end>",)
    trio = [save_model(n, i, extra, vocab_size=259) for i, n in enumerate(("b", "e", "s"))]
    ours = system(trio, alpha=0.0)
    ours.tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    ids = ours.tok_encode("ab<end>cd")
    assert ours._text(ids, ["<end>"]) == "ab"
    assert ours._text(ids, ["d"]) == "abc"
    assert ours._text([*ids[:1], ours.eot_token_id, *ids[1:]], []) == "a"


@needs_lm_eval
def test_sampling_follows_the_settings_and_the_seed(trio):
    ours = system(trio)
    settings = {"do_sample": True, "temperature": 2.0, "top_k": 0, "max_gen_toks": 10}
    asked = requests("generate_until", [("hello", settings)] * 3)
    torch.manual_seed(1)
    first = ours.generate_until(asked)
    assert len(set(first)) == 3
    torch.manual_seed(1)
    assert ours.generate_until(asked) == first
    torch.manual_seed(2)
    assert ours.generate_until(asked) != first
    with pytest.raises(ValueError, match="generation_kwargs: num_beams: found 4; this model takes"):
        ours.generate_until(requests("generate_until", [("hello", {**settings, "num_beams": 4})]))


@needs_lm_eval
def test_chat_templates(trio):
    ours = system(trio)
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(ValueError, match=r"--apply_chat_template: '.*' has no chat template"):
        ours.apply_chat_template(messages)
    ours.tokenizer.chat_template = CHAT
    assert ours.apply_chat_template(messages) == "<user>hi</><a>"
    answered = [*messages, {"role": "assistant", "content": "So"}]
    assert ours.apply_chat_template(answered, False).startswith("<user>hi</><assistant>So")
    assert ours.chat_template(True) == CHAT
    assert ours.tokenizer_name == ours.tokenizer.name_or_path.replace("/", "__")
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT
    ours.tokenizer.chat_template = refuses
    told = [{"role": "system", "content": "be brief"}, *messages]
    assert ours.apply_chat_template(told) == "<user>hi</><a>"


@needs_lm_eval
def test_an_expert_of_a_run_reads_its_chat_template(recipe, tmp_path):
    from decode.stage.harness_system import HarnessSystem

    for name in ("small", "expert"):
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(tmp_path / name)
    run = RunFolder(tmp_path / "run")
    written = recipe()
    chat = load_recipe(written, ["expert.prompt=chat"])
    run.path.mkdir()
    save_recipe(chat, run.recipe)
    ours = HarnessSystem(run=str(run.path), device="cpu")
    prompt = ours._prompt("hi", 60)
    assert ours.tokenizer.decode(prompt.expert) == "<user>hi</><a>"
    assert ours.tokenizer.decode(prompt.base) == ours.tokenizer.decode(prompt.antiexpert) == "hi"
    (found,) = ours.loglikelihood(requests("loglikelihood", [("hi ", "there")]))
    given = Continuation(0, prompt, ours.tok_encode(" there"))
    (scored,) = ours.completer.score([given])
    assert found[0] == pytest.approx(sum(scored.logprobs), abs=1e-4)
    with pytest.raises(ValueError, match="--apply_chat_template: this system's models read each"):
        ours.apply_chat_template([{"role": "user", "content": "hi"}])
    with pytest.raises(ValueError, match="a context has 14 tokens in its chat template"):
        ours._prompt("hi", 13)


@needs_lm_eval
def test_errors_are_one_line(save_model, tmp_path):
    base, expert, antiexpert = [save_model(name, seed) for seed, name in enumerate("bes")]
    for line, given in (
        ("alhpa: not known here", {"alhpa": 1}),
        ("no models: give run=FOLDER, or base=MODEL,expert=MODEL", {"base": None}),
        (f"expert '{expert}' is no adapter", {"antiexpert": None}),
        ("base, expert, antiexpert: given beside run", {"run": str(tmp_path)}),
        ("system: found 'tuned'; there are", {"system": "tuned"}),
        ("alpha: found 'one', expected a number", {"alpha": "one"}),
        ("alpha: found True, expected a number", {"alpha": True}),
        ("alpha: found nan, expected a number", {"alpha": float("nan")}),
        ("max_length: found 'x', expected a number from 2", {"max_length": "x"}),
        ("batch_size: found 0, expected a number from 1, or auto", {"batch_size": 0}),
        ("batch_size: found 'x', expected", {"batch_size": "x"}),
        ("dtype: found 'float8', expected auto or", {"dtype": "float8"}),
        ("vocabulary must be one of 'identical', 'shared'", {"vocabulary": "some"}),
        ("model '/no/such': no config found", {"base": "/no/such"}),
        ("decode.device: found 'cuda:7'", {"device": "cuda:7"}),
    ):
        with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(line)}[^\n]*$"):
            system((base, expert, antiexpert), **given)
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    from decode.stage.harness_system import HarnessSystem

    recipe = load_recipe(ROOT / "recipes/mini/facts.yaml")
    save_recipe(recipe, unfinished / "recipe.yaml")
    with pytest.raises(ValueError, match="run/expert: not there yet; train it with train/sft"):
        HarnessSystem(run=str(unfinished))


@needs_lm_eval
@pytest.mark.long
def test_a_task_of_local_rows_from_the_command_line(save_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    names = ("base", "expert", "small")
    base, expert, antiexpert = [save_model(name, seed) for seed, name in enumerate(names)]
    rows = [{"q": f"{n}+{n}=", "choices": [str(n), str(2 * n)], "gold": 1} for n in range(1, 7)]
    common = {"dataset_path": "json", "test_split": "test", "doc_to_text": "{{q}}"}
    common["dataset_kwargs"] = {"data_files": {"test": jsonl(tmp_path / "rows.jsonl", rows)}}
    chosen = {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}
    said = {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
    }
    text = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{q}}",
    }
    for name, own in (("sum_choice", chosen), ("sum_said", said), ("sum_text", text)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **own}))
    tasks = ["--include_path", str(tmp_path), "--tasks", "sum_choice,sum_said,sum_text"]

    def results(name: str, *arguments: str) -> dict:
        out = tmp_path / name
        assert harness(*tasks, *arguments, "--output_path", str(out)) is None, capsys.readouterr()
        (found,) = out.rglob("results_*.json")
        found = json.loads(found.read_text())["results"]
        return {
            (task, key): value
            for task, measured in found.items()
            for key, value in measured.items()
            if isinstance(value, float)
        }

    models = f"base={base},expert={expert},antiexpert={antiexpert}"
    theirs = results(
        "theirs", "--model", "hf", "--model_args", f"pretrained={base}", "--device", "cpu"
    )
    cached = ("--use_cache", str(tmp_path / "answers"))
    ours = ["--model", "proxytune", "--batch_size", "auto", "--model_args"]
    at_zero = results("zero", *ours, f"{models},alpha=0", *cached)
    assert at_zero == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    assert results("again", *ours, f"{models},alpha=0", *cached) == at_zero
    at_one = results("one", *ours, f"{models},alpha=1.0")
    assert at_one["sum_text", "word_perplexity,none"] != pytest.approx(
        theirs["sum_text", "word_perplexity,none"], rel=0.01
    )
    code = harness(*tasks, *ours, f"{models},alhpa=1")
    assert code == "error: alhpa: not known here; docs/lm_eval.md has all arguments"
