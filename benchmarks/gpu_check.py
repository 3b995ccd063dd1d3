"""All checks and the main figures of one GPU in six minutes, without a network.

    python benchmarks/gpu_check.py --json check.json
    python benchmarks/gpu_check.py --device cpu        # the same steps at sizes of a test

Steps: a short training under ZeRO-3 (LoRA, with Liger's kernels where they are installed) that then
decodes; the CPU's tokens on the GPU with its expert; `pytest -m gpu`; speed at real sizes with
random weights; the base alone compiled. Each has a time limit. A step that lacks something is
skipped with the reason. The exit code is 1 if a step failed.
"""

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# A script's own folder comes first on the path, where decode.py would be taken for the package.
sys.path[0] = ROOT = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.record import record, where

LONGEST_S = 350  # of all steps
GIB = 1 << 30


@dataclass
class Step:
    """A command with a time limit, and what came of it.

    Attributes:
        skipped: why it is not run; None if it is.
        json: a file it writes, which goes into the report.
    """

    name: str
    command: list[str]
    limit_s: float
    skipped: str | None = None
    json: Path | None = None
    result: str = ""
    seconds: float = 0.0
    said: str = ""
    measured: dict[str, Any] = field(default_factory=dict)

    def run(self, left_s: float) -> None:
        """Run it, for `left_s` seconds at most."""
        limit_s = min(self.limit_s, left_s)
        if self.skipped is None and limit_s < 5:
            self.skipped = "no time left"
        if self.skipped is not None:
            self.result, self.said = "skipped", self.skipped
            return
        start = time.monotonic()
        environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
        path = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit_s)
            self.result = "failed" if process.returncode else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # launchers have children
            output, _ = process.communicate()
            self.result = f"failed: longer than {limit_s:.0f} s"
        self.seconds = time.monotonic() - start
        lines = output.strip().splitlines() or [""]
        errors = [line for line in lines if line.startswith("error: ")]
        self.said = errors[0] if errors else lines[-1].strip()
        if self.result != "passed":
            self.measured["output"] = lines[-60:]
        if self.json is not None and self.json.exists():
            self.measured |= json.loads(self.json.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--json", help="write everything measured to this file")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use; take --device cpu")
    start, done = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for step in steps(arguments.device, Path(folder)):
            if arguments.device == "cpu":
                step.limit_s = LONGEST_S  # such a machine may be busy
            print(f"{step.name} ...", file=sys.stderr)
            step.run(LONGEST_S - (time.monotonic() - start))
            print("\n".join(step.measured.get("output", [])), file=sys.stderr)
            done.append(step)
    report = record(arguments, {"steps": [asdict(step) | {"json": None} for step in done]})
    print(f"{where(report)}; {time.monotonic() - start:.0f} s in all\n")
    for step in done:
        print(f"{step.name:20}{step.result:28}{step.seconds:6.0f} s   {step.said:.100}")
    sys.exit(any(step.result.startswith("failed") for step in done))


def steps(device: str, folder: Path) -> Iterator[Step]:
    """The steps in their order; what one needs of an earlier one is looked for when it comes."""
    is_gpu = device == "cuda"
    yield training(is_gpu, folder / "run")
    expert, rows = folder / "run" / "expert", [] if is_gpu else ["--num-rows", "4"]
    yield Step(
        "parity",
        ["benchmarks/parity.py", str(expert), "--device", device, *rows],
        60,
        None if expert.is_dir() else "the training left no expert",
    )
    missing = None if importlib.util.find_spec("pytest") else "pytest is not installed"
    yield Step(
        "pytest -m gpu",
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_gpu.py"],
        120,
        missing if is_gpu else "needs a GPU",
    )
    file = folder / "decode.json"
    yield Step("speed", [*speed(device), "--json", str(file)], 75, json=file)
    file = folder / "compiled.json"
    systems = ["--batch-sizes", "1", "--systems", "ours", "compiled"]
    yield Step(
        "base compiled",
        [*speed(device), *systems, "--json", str(file)],
        75,
        None if is_gpu else "needs a GPU",
        file,
    )


def training(is_gpu: bool, output: Path) -> Step:
    has_liger = is_gpu and importlib.util.find_spec("liger_kernel") is not None
    launch = ["-m", "accelerate.commands.launch", "--config_file"]
    launch = [*launch, "recipes/accelerate/single_gpu.yaml"] if is_gpu else []  # it needs a GPU
    changes = ["sft.deepspeed=zero3", f"output_dir={output}", "wandb.project=null"]
    changes += ["decode.bases=[{model: data/mini/large, dtype: float32}]", "decode.alpha=[1.0]"]
    changes += ["sft.use_liger_kernel=true"] if has_liger else []
    changes += [] if is_gpu else ["sft.max_steps=2", "task.eval_limit=2", "sft.save_steps=2"]
    name = "ZeRO-3, LoRA" + (", Liger" if has_liger else "")
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    skipped = None if has_deepspeed else "deepspeed is not installed"
    return Step(name, [*launch, "train/sft.py", "recipes/mini/facts.yaml", *changes], 100, skipped)


def speed(device: str) -> list[str]:
    """The benchmark at the largest sizes that fit, at those of a test on a CPU."""
    command = ["benchmarks/decode_gpu.py", "--device", device, "--num-rounds", "1"]
    if device == "cpu":
        sizes = ["--pair", "tinier/tinier", "--prompt-tokens", "8", "--new-tokens", "8"]
        return [*command, *sizes, "--dtype", "float32", "--batch-sizes", "1", "2"]
    memory = torch.cuda.get_device_properties(0).total_memory
    pair = "13b/1b" if memory > 48 * GIB else "8b/0.5b"
    systems = ["--systems", "ours", "guard", "base", "generate"]
    return [*command, "--pair", pair, "--new-tokens", "64", "--batch-sizes", "1", "32", *systems]


if __name__ == "__main__":
    main()
