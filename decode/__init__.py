"""Decoding with proxy-tuned models. `ProxyTuned` is the public entry."""

from .engine import Completion
from .models import ModelSource
from .proxy import ProxyTuned
from .sampling import Sampling

__all__ = ["Completion", "ModelSource", "ProxyTuned", "Sampling"]
