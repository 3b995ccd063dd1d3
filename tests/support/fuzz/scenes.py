"""Scenes: commands with recipes and rows of many kinds, all of them right; a case harms one."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .world import World

Rows = dict[str, list[dict[str, Any]]]  # of each file
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NAMES = ("Ann", "Bob", "Cy", "Dee", "Eve", "Fay")


@dataclass
class Scene:
    """An entry, and what it is given.

    Attributes:
        tree: the recipe.
        rows: what is in the files that it names.
        answers: what a judge says, in turns; nobody is asked if empty.
    """

    command: str
    tree: dict[str, Any]
    rows: Rows
    answers: tuple[str, ...] = ()
    more: dict[str, str] = field(default_factory=dict)
    """Further files."""

    @property
    def sent_answers(self) -> list[bytes]:
        """What the judge's endpoint sends."""
        return list(map(answer, self.answers))

    def write(self, world: World) -> None:
        """The recipe and its files."""
        for name, rows in self.rows.items():
            (world.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, text in self.more.items():
            (world.folder / name).write_text(text)
        world.write(self.tree)


def word_problems(num: int, first: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"{NAMES[i % 6]} has {i} pens and buys {i % 7}. How many pens now?",
            "answer": f"{i}+{i % 7}={i + i % 7}\n#### {i + i % 7}",
        }
        for i in range(first, first + num)
    ]


def questions(num: int, first: int) -> list[dict[str, Any]]:
    return [
        {"id": f"q{i}", "question": f"Who is number {i}?", "answers": [NAMES[i % 6], f"No. {i}"]}
        for i in range(first, first + num)
    ]


def chats(num: int) -> list[dict[str, Any]]:
    said = [("system", "Be brief."), ("user", "Say {}."), ("assistant", "{}")]
    return [
        {"messages": [{"role": r, "content": text.format(i)} for r, text in said]}
        for i in range(num)
    ]


def instructions(num: int, first: int) -> list[dict[str, Any]]:
    return [
        {"id": f"i{i}", "instruction": f"Say {i}.", "input": "", "output": f"{i}"}
        for i in range(first, first + num)
    ]


def problems(num: int) -> list[dict[str, Any]]:
    return [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f"def plus{i}(x: int) -> int:\n",
            "test": f"def check(candidate):\n    assert candidate(1) == {i + 1}\n",
            "entry_point": f"plus{i}",
            "canonical_solution": f"    return x + {i}\n",
        }
        for i in range(num)
    ]


def truths(num: int) -> list[dict[str, Any]]:
    return [
        {"question": f"Is {i} even?", "best_answer": "Yes", "incorrect_answers": ["No", "Maybe"]}
        for i in range(num)
    ]


def adapter(world: World) -> Scene:
    """An adapter is trained on the task's own kind of rows."""
    rows = {"train.jsonl": word_problems(6, 0), "eval.jsonl": word_problems(2, 40)}
    return Scene("train/sft.py", {**world.recipe, "output_dir": "fresh"}, rows)


def finished(world: World) -> Scene:
    """A finished expert is decoded."""
    scene = adapter(world)
    scene.tree["expert"] |= {"trained": "adapter", "adapter": None}
    scene.tree["sft"] = None
    del scene.tree["task"]["train"], scene.rows["train.jsonl"]
    scene.command = "decode/run.py"
    return scene


def memory(world: World) -> Scene:
    """The memory of a training is computed."""
    scene = adapter(world)
    scene.command = "train/memory.py"
    return scene


def mixture(world: World) -> Scene:
    """Rows of several kinds are learnt, chats by a template; two tasks are evaluated."""
    scene = adapter(world)
    scene.rows |= {"chats.jsonl": chats(3), "pairs.jsonl": questions(4, 0)}
    scene.rows |= {"texts.jsonl": [{"text": f"Text {i}."} for i in range(3)]}
    scene.rows |= {"who.jsonl": questions(2, 9)}
    scene.more["chat.jinja"] = TEMPLATE
    scene.tree["sft"] |= {"chat_template_path": "chat.jinja"}
    scene.tree["mixture"] = [
        {"format": "messages", "rows": "chats.jsonl", "limit": 2},
        {"task": "questions", "rows": "pairs.jsonl", "weight": 0.5},
        {"format": "text", "rows": "texts.jsonl", "weight": 2},
    ]
    scene.tree["also"] = [{"name": "questions", "eval": "who.jsonl", "eval_limit": 1}]
    return scene


def checked(world: World) -> Scene:
    """The training is checked on the way."""
    scene = adapter(world)
    scene.tree["proxy_check"] = {
        "num_rows": 2,
        "every_steps": 1,
        "alpha": 1.0,
        "select_by": "proxy",
        "patience": 1,
    }
    scene.tree["decode"] |= {"alpha": 1.0, "num_draft_tokens": 2, "alpha_warmup_tokens": 2}
    return scene


def whole(world: World) -> Scene:
    """Whole weights are trained by a loss of the pair, and those of the ceiling."""
    scene = adapter(world)
    scene.tree["expert"] |= {"adapter": None, "proxy_aware": {"base": "large", "alpha": 0.5}}
    scene.tree["decode"]["bases"][0]["tune_reference"] = True
    scene.tree["decode"] |= {"reference_sft": {"learning_rate": 1e-4}, "alpha": 1.0}
    return scene


def streamed(world: World) -> Scene:
    """Rows are read while training."""
    scene = adapter(world)
    scene.tree["task"] |= {"streaming": True, "train_limit": 5, "eval_limit": 1}
    scene.tree["decode"] |= {"alpha": 1.0}
    return scene


def steered(world: World) -> Scene:
    """Questions, sampled, of two experts and with a finished ceiling."""
    scene = finished(world)
    scene.rows = {"eval.jsonl": questions(2, 0)}
    scene.tree["task"]["name"] = "questions"
    scene.tree["decode"]["bases"][0]["tuned"] = "large"
    scene.tree["decode"] |= {
        "experts": [{"expert": "adapter", "antiexpert": "small", "weight": -0.5}],
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "num_samples": 2,
        "vocabulary": "shared",
    }
    scene.tree["analyze"] = {"num_rows": 1}
    return scene


def choices(world: World) -> Scene:
    """Multiple choice."""
    scene = finished(world)
    scene.rows = {"eval.jsonl": truths(2)}
    scene.tree["task"]["name"] = "truthfulqa_mc"
    return scene


def code(world: World) -> Scene:
    """Programs are run."""
    scene = finished(world)
    scene.rows = {"eval.jsonl": problems(1)}
    scene.tree["task"] |= {"name": "humaneval", "extract": "fences"}
    scene.tree["decode"] |= {"num_samples": 2, "pass_at": 1, "alpha": 1.0}
    return scene


def judged(world: World) -> Scene:
    """Instructions, whose answers a judge compares."""
    scene = finished(world)
    scene.rows = {"eval.jsonl": instructions(2, 0)}
    scene.answers = ("A", "tie", "Verdict: B")
    endpoint = {
        "base_url": "http://127.0.0.1:{port}/v1",
        "model": "judge",
        "key_file": "key.txt",
        "key_header": "api-key",
        "headers": {"X-Team": "ours"},
        "query": {"api-version": "1"},
        "parameters": {"temperature": 0},
        "concurrency": 1,
        "num_retries": 1,
        "backoff_s": 0.01,
        "timeout_s": 1,
    }
    scene.more["key.txt"] = "a-key-of-a-judge\n"
    scene.tree["task"] |= {"name": "instruct", "judges": {"judge": {"endpoint": endpoint}}}
    scene.tree["decode"] |= {"alpha": 1.0}
    return scene


SCENES: dict[str, Callable[[World], Scene]] = {
    scene.__name__: scene
    for scene in (
        adapter,
        finished,
        memory,
        mixture,
        checked,
        whole,
        streamed,
        steered,
        choices,
        code,
        judged,
    )
}


def some_scene(world: World, rng: random.Random) -> Scene:
    """One of them."""
    return SCENES[rng.choice(list(SCENES))](world)


def answer(text: str) -> bytes:
    """What an endpoint sends that answers with `text`."""
    body = {"choices": [{"message": {"role": "assistant", "content": text}}]}
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (
        len(data),
        data,
    )
