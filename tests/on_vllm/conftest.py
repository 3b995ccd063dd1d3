"""Tests for an environment with vLLM (docs/vllm.md): on the CPU, each engine in this process."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

SETTINGS = {
    "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than the tests
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
}

if find_spec("vllm"):  # elsewhere other tests share this process
    os.environ.update({key: os.environ.get(key, value) for key, value in SETTINGS.items()})
sys.path.append(str(Path(__file__).parents[1]))  # support/
