"""The text the mini family is pretrained on, made document by document.

Kinds are mixed by shares that move from the first step to a third of the run: lists to copy and
sums come first (without copying, numbers never make it from a question into a solution), facts and
word problems fill the rest. After `Question: ...` and `Answer:` an answer is never an expert's:
facts come in a whole sentence, problems in prose. What is left to tuning is the style. The last
sixth adds steps that end in `####`, under another heading: a base that has never seen a form cannot
be steered into it, since its logits there are noise.
"""

import random
from collections.abc import Callable

from .facts import Fact, all_facts
from .problems import NAMES, THINGS, Problem, draw_problem
from .splits import held_out_keys

# kind -> weight among documents at the first step, and from MIXED_FROM on
SHARES = {
    "copy": (0.45, 0.03),
    "sums": (0.20, 0.07),
    "facts": (0.25, 0.70),
    "problems": (0.10, 0.20),
    "steps": (0.0, 0.0),
}
MIXED_FROM = 1 / 3
STEPS_FROM, STEPS_SHARE = 5 / 6, 0.25


class Stream:
    """Documents by random generator and progress; holds the facts and the problems to leave out."""

    def __init__(self) -> None:
        self._facts = all_facts()
        self._by_subject: dict[str, list[Fact]] = {}
        for fact in self._facts:
            self._by_subject.setdefault(fact.subject, []).append(fact)
        self._subjects = list(self._by_subject)
        self._held_out = held_out_keys()
        self._makers: dict[str, Callable[[random.Random], str]] = {
            "copy": self._copy,
            "sums": self._sums,
            "facts": self._fact,
            "problems": self._problem,
            "steps": self._steps,
        }

    def document(self, rng: random.Random, progress: float) -> str:
        """One document; `progress` is the share of pretraining already done, 0 to 1."""
        late = min(1.0, progress / MIXED_FROM)
        weights = {kind: first + (last - first) * late for kind, (first, last) in SHARES.items()}
        if progress >= STEPS_FROM:
            weights["steps"] = STEPS_SHARE
        (kind,) = rng.choices(list(weights), list(weights.values()))
        return self.of_kind(kind, rng)

    def of_kind(self, kind: str, rng: random.Random) -> str:
        """One document of `kind`, a key of SHARES."""
        return self._makers[kind](rng)

    def _copy(self, rng: random.Random) -> str:
        """A list to repeat, or who has how many."""
        if rng.random() < 0.4:
            words = [
                str(rng.randint(1, 199)) if rng.random() < 0.6 else rng.choice(NAMES + THINGS)
                for _ in range(rng.randint(3, 9))
            ]
            listed = ", ".join(words)
            return f"List: {listed}. Again: {listed}."
        names = rng.sample(NAMES, rng.randint(2, 4))
        counts = {name: f"{rng.randint(2, 199)} {rng.choice(THINGS)}" for name in names}
        given = " ".join(f"{name} has {counts[name]}." for name in names)
        rng.shuffle(names)
        return f"{given} " + " ".join(f"{name}: {counts[name]}." for name in names)

    def _sums(self, rng: random.Random) -> str:
        """A few equations in the form the worked steps use."""
        return " ".join(f"{_equation(rng)}." for _ in range(rng.randint(4, 10)))

    def _fact(self, rng: random.Random) -> str:
        """A question with a verbose answer, or sentences about one subject."""
        if rng.random() < 0.6:
            fact = rng.choice(self._facts)
            answer = fact.statements[0 if rng.random() < 0.6 else 1]
            return f"Question: {fact.question}\nAnswer: {answer}"
        facts = self._by_subject[rng.choice(self._subjects)]
        chosen = rng.sample(facts, min(len(facts), 3))
        return " ".join(rng.choice(fact.statements) for fact in chosen)

    def _problem(self, rng: random.Random) -> str:
        """A word problem solved in prose."""
        problem = self._draw_problem(rng)
        return f"Question: {problem.question}\nAnswer: {problem.prose}"

    def _steps(self, rng: random.Random) -> str:
        """A word problem and its steps, but not as question and answer."""
        problem = self._draw_problem(rng)
        return f"{problem.question}\nSteps: {problem.worked}"

    def _draw_problem(self, rng: random.Random) -> Problem:
        """A random problem, never one of the held-out rows."""
        while True:
            problem = draw_problem(rng)
            if problem.key not in self._held_out:
                return problem


def _equation(rng: random.Random) -> str:
    kind = rng.choice("+-*/")
    if kind == "+":
        left, right = rng.randint(1, 99), rng.randint(1, 99)
        return f"{left}+{right}={left + right}"
    if kind == "-":
        right = rng.randint(1, 60)
        left = right + rng.randint(1, 99)
        return f"{left}-{right}={left - right}"
    left, right = rng.randint(2, 9), rng.randint(2, 20)
    if kind == "*":
        left, right = rng.sample((left, right), 2)
        return f"{left}*{right}={left * right}"
    return f"{left * right}/{left}={right}"
