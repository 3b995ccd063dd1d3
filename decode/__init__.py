"""Decoding with proxy-tuned models. `ProxyTuned` is the public entry."""

from .backends.local import LocalCompleter
from .backends.proxy_tuned import ProxyTuned, WeightedExpert
from .engine.completer import Chat, Completer, Completion, Continuation, Request, RolePrompt, Scored
from .engine.logits import Alpha
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
    "Sampling",
    "Scored",
    "WeightedExpert",
]
