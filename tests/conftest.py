"""What every test may ask for; the fixtures themselves are in `support/`."""

import os

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from support.decode_run import recipe
from support.hub_cache import cache_as
from support.judge_server import serve
from support.models import save_model
from support.quick_tier import pytest_terminal_summary
from support.raw_server import raw_serve
from support.tiny_run import environment, overrides

__all__ = [
    "cache_as",
    "environment",
    "overrides",
    "pytest_terminal_summary",
    "raw_serve",
    "recipe",
    "save_model",
    "serve",
]
