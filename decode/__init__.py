"""Decoding with proxy-tuned models. `ProxyTuned` is the public entry."""

from .engine.alpha import Alpha
from .engine.engine import Completion
from .engine.sampling import Sampling
from .engine.stats import DecodingStats
from .models.proxy_tuned import ProxyTuned, WeightedExpert
from .models.sources import ModelSource

__all__ = [
    "Alpha",
    "Completion",
    "DecodingStats",
    "ModelSource",
    "ProxyTuned",
    "Sampling",
    "WeightedExpert",
]
