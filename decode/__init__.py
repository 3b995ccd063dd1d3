"""Decoding with proxy-tuned models. `ProxyTuned` is the public entry."""

from .backends.completer import Completer, Continuation, Scored
from .backends.local import LocalCompleter
from .backends.proxy_tuned import ProxyTuned, WeightedExpert
from .backends.thinking import Thinking, Thought, complete_with_thinking
from .engine.request import Chat, Completion, Request, RolePrompt
from .engine.rule import Alpha, Rule
from .engine.sampling import Sampling
from .engine.stats import DecodingStats
from .models.sources import ModelSource

__all__ = [
    "Alpha",
    "Chat",
    "Completer",
    "Completion",
    "Continuation",
    "DecodingStats",
    "LocalCompleter",
    "ModelSource",
    "ProxyTuned",
    "Request",
    "RolePrompt",
    "Rule",
    "Sampling",
    "Scored",
    "Thinking",
    "Thought",
    "WeightedExpert",
    "complete_with_thinking",
]
