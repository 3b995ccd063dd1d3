"""Thinking is kept apart from answers, within its budget, whatever stops and samples are asked."""

from dataclasses import replace

import pytest
import torch
from support.chat_templates import QWEN3, family_tokenizer

from decode import (
    Chat,
    LocalCompleter,
    Request,
    RolePrompt,
    Thinking,
    Thought,
    complete_with_thinking,
)
from decode.engine.sampling import Sampling
from decode.models.lane import Lane
from decode.models.prompts import RoleTokenizers

THOUGHT = "<think>\nTwo and\n\ntwo.\n</think>\n\n"
OPEN = QWEN3.replace("assistant\n{% if", "assistant\n<think>\n{% if")


class Scripted:
    """A model that says `story` after a prompt, and `else_` where its thinking was ended for it."""

    can_draft, capture, lane = False, None, Lane(None)
    device = torch.device("cpu")

    def __init__(self, tokenizer, begins, story, else_, eos_ids):
        self._tokenizer, self._begins, self._story, self._else = tokenizer, begins, story, else_
        self.eos_ids = frozenset(eos_ids)
        self.num_steps = 0

    def reserve(self, rows, num_slots, num_kept): ...
    def move(self, source, target): ...
    def clear(self): ...

    def prefill(self, rows, slots):
        self.num_steps += len(rows)
        logits = torch.full((len(rows), len(self._tokenizer)), -10.0)
        for own, row in zip(logits, rows, strict=True):
            own[self._next([*row.prompt.base, *row.token_ids])] = 10.0
        return logits

    def draft(self, rows, num_tokens, pick):
        return torch.empty(len(rows), 0, dtype=torch.long)

    def read(self, rows, drafts):
        return self.prefill(rows, ())[:, None]

    def _next(self, ids):
        said = self._tokenizer.decode(ids).rpartition(self._begins)[2]
        if self._story.startswith(said):
            rest = self._story[len(said) :]
        else:
            rest = self._else[len(said.rpartition(self._else[0])[2]) :]
            rest = self._else if self._else[0] not in said else rest[1:]
        return self._tokenizer(rest, add_special_tokens=False)["input_ids"][0]


def scripted(story, else_="#Cut.<|im_end|>", family="qwen3", begins="assistant\n", template=None):
    tokenizer = family_tokenizer(family)
    tokenizer.chat_template = template or tokenizer.chat_template
    ends = tokenizer.convert_tokens_to_ids(["<eos>", else_[else_.index("<|") :]])
    model = Scripted(tokenizer, begins, story, else_, ends)
    return LocalCompleter(model, RoleTokenizers.alone(tokenizer), 2)


def thought(completer, thinking=Thinking(), prompt="2+2?", limit=40, **options):  # noqa: B008
    asked = [Request(n, Chat(prompt), limit, **options) for n in range(3)]
    first, *others = complete_with_thinking(completer, asked, thinking)
    assert {one.name for one in (first, *others)} == {0, 1, 2}
    assert all(replace(one, name=first.name) == first for one in others)
    return first


@pytest.mark.parametrize("budget", [None, 30])
def test_an_answer_is_what_follows_the_thinking(budget):
    story = THOUGHT + "It is 4.\nReally.<|im_end|>"
    found = thought(scripted(story), Thinking(max_tokens=budget), limit=60, stop=("\n",))
    assert isinstance(found, Thought)
    assert (found.text, found.thinking) == ("It is 4.", "Two and\n\ntwo.")
    assert (found.thinking_end, found.finish_reason) == ("own", "stop")
    tokenizer = family_tokenizer("qwen3")
    assert tokenizer.decode(found.token_ids) == f"{THOUGHT}It is 4.\n"
    assert found.num_thinking_tokens == len(tokenizer("<think>\nTwo and\n\ntwo.\n")["input_ids"])
    whole = thought(scripted(story), None, limit=60)
    assert not isinstance(whole, Thought) and "</think>\n\nIt is 4." in whole.text


def test_thinking_that_uses_its_budget_up_is_ended():
    found = thought(scripted(THOUGHT + "It is 4.<|im_end|>"), Thinking(max_tokens=6), limit=20)
    assert (found.thinking, found.text) == ("Two a", "#Cut.")
    assert (found.thinking_end, found.finish_reason) == ("budget", "eos")
    decoded = family_tokenizer("qwen3").decode(found.token_ids)
    assert decoded == "<think>\nTwo a</think>\n\n#Cut.<|im_end|>"
    assert found.num_thinking_tokens == 7


@pytest.mark.parametrize(
    ("story", "budget", "limit", "reason"),
    [("<think>\nTwo<|im_end|>", 30, 40, "eos"), (THOUGHT + "4<|im_end|>", None, 9, "length")],
)
def test_thinking_that_never_ends_has_an_empty_answer(story, budget, limit, reason):
    found = thought(scripted(story), Thinking(max_tokens=budget), limit=limit)
    assert (found.text, found.thinking_end, found.finish_reason) == ("", "never", reason)
    assert found.thinking.startswith("Two")


def test_without_a_budget_thinking_may_leave_no_room_for_an_answer():
    found = thought(scripted(THOUGHT + "4<|im_end|>"), limit=18)
    assert (found.text, found.thinking_end, found.finish_reason) == ("", "own", "length")


def test_marks_are_known_by_the_end_alone():
    tokenizer = family_tokenizer("qwen3")  # as the first templates of DeepSeek-R1
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    )
    assert Thinking().marks(tokenizer) == ("<think>", "</think>\n\n")


def test_white_space_may_come_before_the_thinking():
    found = thought(scripted("\n" + THOUGHT + "4<|im_end|>"), Thinking(max_tokens=20))
    assert (found.thinking, found.text) == ("Two and\n\ntwo.", "4")


def test_small_models_read_the_thinking_in_their_own_tokens():
    class Reader:
        def ids(self, token_ids):
            return [id_ + 100 for id_ in token_ids]

    tokenizer = family_tokenizer("qwen3")
    own = RoleTokenizers(tokenizer, tokenizer, tokenizer)
    prompt = RolePrompt([1], [2, 3], [4])
    assert own.longer(prompt, (5, 6)) == RolePrompt([1, 5, 6], [2, 3, 5, 6], [4, 5, 6])
    mapped = replace(own, readers=(Reader(), Reader()))
    assert mapped.longer(prompt, (5,)) == RolePrompt([1, 5], [2, 3, 105], [4, 105])


@pytest.mark.parametrize("story", ["It is 4.<|im_end|>", "<|im_end|>", "<thin.<|im_end|>"])
def test_a_completion_that_does_not_think_is_as_without(story):
    asked = {"limit": 20, "stop": (".",)}
    found = thought(scripted(story), Thinking(max_tokens=6), **asked)
    assert found == thought(scripted(story), None, **asked)
    unthinking = Chat("2+2?", arguments={"enable_thinking": False})
    completer = scripted("<think>\n\n</think>\n\nIt is 4.<|im_end|>")
    (found,) = complete_with_thinking(completer, [Request(0, unthinking, 20)], Thinking())
    assert (found.text, isinstance(found, Thought)) == ("It is 4.", False)


@pytest.mark.parametrize("begun", ["", "Two"])
def test_a_prompt_may_open_the_thinking(begun):
    if begun:  # by an assistant's message that the completion goes on from
        turns = [
            {"role": "user", "content": "2?"},
            {"role": "assistant", "content": "<think>\nTwo"},
        ]
        prompt, completer = Chat(turns, goes_on=True), scripted(THOUGHT + "It is 4.<|im_end|>")
    else:  # by the template
        story = THOUGHT.removeprefix("<think>\n") + "It is 4.<|im_end|>"
        prompt = Chat("2+2?")
        completer = scripted(story, begins="<think>\n", template=OPEN)
    asked = [Request(0, prompt, 20, stop=("\n",))]
    (found,) = complete_with_thinking(completer, asked, Thinking(max_tokens=30))
    assert (found.text, found.thinking_end) == ("It is 4.", "own")
    assert found.thinking == "Two and\n\ntwo.".removeprefix(begun).strip()
    (cut,) = complete_with_thinking(completer, asked, Thinking(max_tokens=4))
    assert (cut.text, cut.thinking_end, cut.num_thinking_tokens) == ("#Cut.", "budget", 4)


def test_marks_may_be_special_tokens_of_several_messages():
    final = "<|start|>assistant<|channel|>final<|message|>"
    story = f"<|channel|>analysis<|message|>Two.<|end|>{final}It is 4.<|return|>"
    options = {"else_": "#Cut.<|return|>", "family": "gpt_oss", "begins": "<|start|>assistant"}

    def told(budget):
        completer = scripted(story, **options)
        completer.model._begins = "2?<|end|><|start|>assistant"
        return thought(completer, Thinking(max_tokens=budget), "2?", stop=("4",))

    assert (told(20).thinking, told(20).text, told(20).thinking_end) == ("Two.", "It is ", "own")
    assert (told(3).thinking, told(3).text, told(3).thinking_end) == ("Two", "#Cut.", "budget")


def test_marks_may_be_plain_text():
    completer = scripted("Plan: two.\nAnswer: It is 4.<|im_end|>")
    found = thought(completer, Thinking("Plan:", "\nAnswer:", 30), stop=("4",))
    assert (found.thinking, found.text, found.thinking_end) == ("two.", " It is ", "own")


def test_samples_draw_by_their_names_alone():
    completer = scripted(THOUGHT + "It is 4.<|im_end|>")
    completer.model.prefill = lambda rows, slots: torch.zeros(len(rows), 300)[:, :262]
    sampling, thinking = Sampling(1.0, seed=3), Thinking("<think>", "</think>", 5)
    prompt = Chat(
        [{"role": "user", "content": "2"}, {"role": "assistant", "content": "<think>a"}], True
    )
    asked = [Request(n, prompt, 6, (), sampling) for n in range(5)]
    many = {one.name: one for one in complete_with_thinking(completer, asked, thinking)}
    (one,) = complete_with_thinking(completer, asked[3:4], thinking)
    assert one == many[3] and len({each.token_ids for each in many.values()}) == 5


def test_marks_are_recognised_where_a_template_shows_them():
    found = {
        name: Thinking().marks(family_tokenizer(name)) for name in ("qwen3", "gpt_oss", "gemma")
    }
    assert found["qwen3"] == ("<think>", "</think>\n\n") and found["gemma"] is None
    assert found["gpt_oss"] is not None and found["gpt_oss"][0].startswith("<|channel|>analysis")
    with pytest.raises(ValueError, match="no model's chat template shows how it marks thinking"):
        Thinking().num_tokens([family_tokenizer("gemma")])
    for wrong in ({"start": "<a>"}, {"max_tokens": 0}):
        with pytest.raises(ValueError, match=r"^thinking: "):
            Thinking(**wrong)
