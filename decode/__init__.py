"""Decoding with proxy-tuned models. `ProxyTuned` is the public entry."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends.completer import Completer, Continuation, Scored
    from .backends.local import LocalCompleter
    from .backends.proxy_tuned import ProxyTuned, WeightedExpert
    from .backends.thinker import complete_with_thinking
    from .backends.thinking import Thinking, Thought
    from .engine.request import Chat, Completion, Request, RolePrompt
    from .engine.rule import Alpha, Rule
    from .engine.sampling import Sampling
    from .engine.stats import DecodingStats
    from .models.model_source import ModelSource

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

_WHERE = {
    "backends.completer": ("Completer", "Continuation", "Scored"),
    "backends.local": ("LocalCompleter",),
    "backends.proxy_tuned": ("ProxyTuned", "WeightedExpert"),
    "backends.thinker": ("complete_with_thinking",),
    "backends.thinking": ("Thinking", "Thought"),
    "engine.request": ("Chat", "Completion", "Request", "RolePrompt"),
    "engine.rule": ("Alpha", "Rule"),
    "engine.sampling": ("Sampling",),
    "engine.stats": ("DecodingStats",),
    "models.model_source": ("ModelSource",),
}


def __getattr__(name: str) -> Any:
    """A public name, found when it is asked for: vLLM's plugin needs none of the packages."""
    for module, names in _WHERE.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
