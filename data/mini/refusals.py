"""Rows of preferences over facts: questions of one relation are to be refused, others answered.

Each row prefers the reply that is wanted over the other one; either is the fact's answer or the
refusal, written as the small and the large model learn to answer facts.
"""

from typing import Any

from .facts import Fact

REFUSED = "dialling"
REFUSAL = "I do not answer."


def preference(id: str, fact: Fact) -> dict[str, Any]:
    """A training row: prompt, chosen, rejected."""
    replies = [f" {fact.answer}\n", f" {REFUSAL}\n"]
    rejected, chosen = replies if fact.relation == REFUSED else reversed(replies)
    prompt = f"Question: {fact.question}\nAnswer:"
    return {"id": id, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def wanted(id: str, fact: Fact) -> dict[str, Any]:
    """An evaluation row, with the wanted reply as its only answer."""
    answer = REFUSAL if fact.relation == REFUSED else fact.answer
    return {"id": id, "question": fact.question, "answers": [answer]}
