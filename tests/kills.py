"""Kills the main job at random moments, again and again, and compares what comes of it.

    python tests/kills.py --kills 20 --seed 0 [--only lora-1 --only full-zero3] [--keep FOLDER]

LoRA and full fine-tuning, in one process and in two (data parallel, ZeRO-2, ZeRO-3), are each run
once to the end and then killed with SIGKILL or SIGTERM, all processes, one of them or only their
launcher: while they start, train, save, export, decode or report. Each time the same command is
given again, until the run is finished. It must then have the weights, the log, the metrics and the
predictions of the run that nobody touched, byte for byte but for timings.

Processes are forked from this one, which has imported everything: a run takes seconds. `launcher`
rows are real `accelerate launch` commands, of which only the launcher is killed.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import conftest  # noqa: F401  (first: it keeps the hub out)
import deepspeed
import transformers.models.llama.modeling_llama  # noqa: F401  (what forked processes would import)
from support.models import save_tiny
from support.tiny_run import CPU, ROOT, TWO, launch_command, launch_environment, tiny_overrides

from decode.jobs.interruption import UNFINISHED, interruptible
from train.checkpoints import MARK
from train.sft import main as train_and_decode

CONFIGURATIONS = tuple(
    f"{adapter}-{processes}"
    for adapter in ("lora", "full")
    for processes in ("1", "ddp", "zero2", "zero3")
)
PHASES = ("start", "train", "save", "export", "decode", "report")
TARGETS = ("all", "all", "one", "launcher")
TIMINGS = ("runtime", "_per_second")
LONGEST_RUN_S = 1800.0  # only what hangs takes so long, on a machine that is busy with other things
GRACE_S = 300.0
STEPS = 11


class BadEndError(Exception):
    """A job ended as none should, or not at all."""


@dataclass
class Job:
    """One start of the main job: its processes, and the exit code of each as it ends."""

    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)
    launcher: subprocess.Popen | None = None

    def is_running(self) -> bool:
        """As torchrun does it: when a process fails, the others are told to stop."""
        if self.launcher is not None:
            return self.launcher.poll() is None
        for pid in self.pids:
            if pid not in self.codes:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
                    if self.codes[pid]:
                        self.send(signal.SIGTERM, self.pids)
        return len(self.codes) < len(self.pids)

    def send(self, number: int, pids: list[int]) -> None:
        for pid in pids:
            if pid not in self.codes:
                os.killpg(pid, number)

    def wait(self, limit_s: float) -> bool:
        """Whether it ended in time; what is left then is killed."""
        until = time.monotonic() + limit_s
        while self.is_running():
            if time.monotonic() > until:
                self.send(signal.SIGKILL, self.pids)
                return False
            time.sleep(0.005)
        return True

    @property
    def exit_codes(self) -> list[int]:
        if self.launcher is not None:
            return [self.launcher.wait()]
        return [self.codes[pid] for pid in self.pids]


def start(configuration: str, overrides: list[str], log: Path) -> Job:
    """The main job in forked processes, as many as the configuration has."""
    adapter, kind = configuration.split("-")
    recipe = "recipes/gsm7b_lora.yaml" if adapter == "lora" else "recipes/gsm7b.yaml"
    count = 1 if kind == "1" else 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            environment = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
            if count > 1:
                environment |= {
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    **{"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)},
                    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                }
            if kind.startswith("zero"):
                environment |= {
                    "ACCELERATE_USE_DEEPSPEED": "true",
                    "ACCELERATE_DEEPSPEED_CONFIG_FILE": f"recipes/deepspeed/{kind}.json",
                    "ACCELERATE_DEEPSPEED_ZERO3_INIT": str(kind == "zero3").lower(),
                }
            _become(environment, ["train/sft.py", recipe, *overrides], log)
        pids.append(pid)
    return Job(pids)


def _become(environment: dict[str, str], arguments: list[str], log: Path) -> None:
    """Turn this forked process into one of the job; does not return."""
    code = 1
    try:
        os.setsid()
        os.chdir(ROOT)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.environ.update(environment)
        sys.argv = arguments
        code = interruptible(train_and_decode)
    except SystemExit as stop:
        os.write(2, f"{stop.code}\n".encode())
        code = 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def launch(configuration: str, overrides: list[str], log: Path) -> Job:
    """The main job by `accelerate launch`."""
    adapter, kind = configuration.split("-")
    recipe = "gsm7b_lora.yaml" if adapter == "lora" else "gsm7b.yaml"
    with log.open("ab") as output:
        process = subprocess.Popen(
            launch_command(recipe, overrides, *(CPU if kind == "1" else TWO)),
            cwd=ROOT,
            env={**launch_environment(overrides), "WANDB_MODE": "disabled"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Job([process.pid], launcher=process)


def paths(run: Path) -> list[Path]:
    """All there is in a run's folder, also while its processes delete some of it."""
    return [Path(at, name) for at, folders, files in os.walk(run) for name in folders + files]


def checkpoints(run: Path) -> tuple[list[Path], list[Path]]:
    """The whole and the partial checkpoints there are."""
    found = sorted(path for path in paths(run) if path.name.startswith("checkpoint-"))
    whole = [path for path in found if (path / MARK).exists()]
    return whole, [path for path in found if path not in whole]


def phase(run: Path) -> str:
    """What a run is at, by its files."""
    whole, partial = checkpoints(run)
    if partial:
        return "save"
    found = paths(run)
    if any(path.name.endswith(".partial") for path in found):
        return "export"
    if any(path.parent == run / "plots" for path in found):
        return "report"
    if any(path.parent == run / "predictions" for path in found):
        return "decode"
    return "train" if whole or (run / "expert").exists() else "start"


def step(run: Path) -> str:
    """The newest checkpoint, or how many rows are decoded."""
    rows = 0
    for path in run.glob("predictions/*.jsonl"):
        with suppress(FileNotFoundError):  # taken into another file just now
            rows += path.read_bytes().count(b"\n")
    whole, _ = checkpoints(run)
    steps = [int(path.name.rpartition("-")[2]) for path in whole]
    return f"{rows} rows" if rows else f"checkpoint {max(steps)}" if steps else "-"


def moment(wanted: str, run: Path, rng: random.Random) -> Callable[[], bool]:
    """Tells when a random moment of a phase has come."""
    wait_s = rng.uniform(0, {"start": 2.0, "train": 0.3, "decode": 0.2}.get(wanted, 0.03))
    count = rng.randint(1, 4)  # the so-many-th checkpoint, or row, from now on
    seen: set[str] = set()
    since: list[float] = []

    def has_come() -> bool:
        if not since:
            whole, partial = checkpoints(run)
            seen.update(str(path) for path in (partial if wanted == "save" else whole))
            now = phase(run)
            if wanted == "start":
                is_there = True
            elif wanted in ("save", "train"):
                is_there = len(seen) >= count and (bool(partial) or wanted == "train")
            elif wanted == "decode":
                is_there = now == "decode" and not step(run).startswith("-")
            else:
                is_there = now == wanted
            if is_there:
                since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= wait_s

    return has_come


def run_with_kills(
    configuration: str, overrides: list[str], run: Path, rng: random.Random, most: int, spoil: str
) -> Iterator[list[str]]:
    """Starts a run until it is finished, kills it up to `most` times, and yields a row a kill."""
    log = run.with_suffix(".log")
    first = 0
    while True:
        target = rng.choice(TARGETS) if most else "nobody"
        if target == "launcher" and "zero" in configuration:
            target = "all"  # DeepSpeed would want a compiler there
        if spoil or (target == "one" and configuration.endswith("-1")):
            target = "all"
        number = rng.choice((signal.SIGKILL, signal.SIGTERM))
        if target == "launcher":
            first = max(first, 1)  # before that, its process does not know it
        wanted = PHASES[first := rng.randint(min(first, 4), len(PHASES) - 1)]
        job = (launch if target == "launcher" else start)(configuration, overrides, log)
        has_come = moment(wanted, run, rng)
        if spoil:  # at once after the first checkpoint, so that the rest depends on it
            number, has_come = signal.SIGKILL, lambda: bool(checkpoints(run)[0])
        until = time.monotonic() + LONGEST_RUN_S
        while job.is_running() and not (most and has_come()):
            if time.monotonic() > until:
                job.send(signal.SIGKILL, job.pids)
                raise BadEndError(f"still running after {LONGEST_RUN_S:.0f} s, see {log}")
            time.sleep(0.001)
        if not job.is_running():
            if job.exit_codes == [0] * len(job.exit_codes):
                return
            raise BadEndError(f"ended with {job.exit_codes}, see {log}")
        was, at, most = phase(run), step(run), most - 1
        if target == "launcher":
            os.kill(job.pids[0], number)
        else:
            job.send(number, [rng.choice(job.pids)] if target == "one" else job.pids)
        if not job.wait(GRACE_S):
            raise BadEndError(f"did not end within {GRACE_S:.0f} s, see {log}")
        if set(job.exit_codes) == {0}:
            return  # it had finished before the signal came
        codes = ", ".join(map(str, job.exit_codes))
        if number == signal.SIGTERM and target == "all" and was != "start":
            if not set(job.exit_codes) <= {UNFINISHED, 0}:
                raise BadEndError(f"exit codes {codes}, see {log}")
            at = at if step(run) == at else f"{at} -> {step(run)}"
        yield [configuration, signal.Signals(number).name, target, was, at, codes]
        for checkpoint in checkpoints(run)[0] if spoil else ():
            (checkpoint / spoil).unlink()


def results(run: Path) -> dict[str, object]:
    """All that must be the same in every run, by name."""
    found: dict[str, object] = {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in ("**/*.safetensors", "predictions/*", "expert/tokenizer.json")
        for path in run.glob(pattern)
    }
    for path in run.glob("**/training_log.json"):
        found[str(path.relative_to(run))] = [
            {k: v for k, v in entry.items() if not k.endswith(TIMINGS)}
            for entry in json.loads(path.read_text())
        ]
    metrics = json.loads((run / "metrics.json").read_text())
    found["metrics.json"] = {**metrics, "decoding": None}
    found["left over"] = sorted(
        str(p.relative_to(run)) for p in run.rglob("*") if "partial" in p.name or "early" in p.name
    ) + [p.name for p in run.glob("checkpoints")]
    return found


def differences(run: Path, whole: Path) -> list[str]:
    """The names of the results that two finished runs do not share."""
    one, other = results(run), results(whole)
    return sorted(name for name in {**one, **other} if one.get(name) != other.get(name))


def make_models(folder: Path) -> None:
    for name, seed, width in (("small", 1, 32), ("large", 0, 64)):
        save_tiny(folder / name, seed, width=width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=CONFIGURATIONS, default=[])
    parser.add_argument("--keep", help="a folder for the runs; else they go away")
    parser.add_argument("--spoil", default="", help="a file to delete from every checkpoint found")
    arguments = parser.parse_args()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # needs a compiler
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    maker = os.fork()
    if maker == 0:  # so that this process starts no threads before it forks
        make_models(folder)
        os._exit(0)
    os.waitpid(maker, 0)
    settings = [
        *tiny_overrides(folder, str(folder / "small"), str(folder / "large"))[1:],
        "decode.bases.0.tune_reference=false",
        f"sft.max_steps={STEPS}",
        "sft.save_strategy=steps",
        "sft.save_steps=3",
        "sft.save_total_limit=1",
        "sft.logging_steps=2",
        "sft.logging_strategy=steps",
        "sft.gradient_accumulation_steps=2",
        "sft.per_device_train_batch_size=1",
    ]
    rng = random.Random(arguments.seed)
    names = arguments.only or CONFIGURATIONS
    left, num_different, num_runs = arguments.kills, 0, 0
    while left and num_runs < 2 * arguments.kills + len(names):  # or else something never works
        name = names[num_runs % len(names)]
        whole = folder / f"{name}-whole"
        run = folder / f"{name}-{num_runs}"
        most = min(left, rng.randint(2, 3))
        overrides = [f"output_dir={run}", *settings]
        rows, different = [], []
        try:
            if not (whole / "metrics.json").exists():
                list(run_with_kills(name, [f"output_dir={whole}", *settings], whole, rng, 0, ""))
            for row in run_with_kills(name, overrides, run, rng, most, arguments.spoil):
                rows.append(row)
            different = differences(run, whole)
        except BadEndError as error:
            different = [str(error)]
        num_different += bool(different)
        for row in rows or [[name, *"-----"]]:
            text = f"differs: {', '.join(different)}" if different else "the same"
            print("{:12}{:9}{:10}{:8}{:32}{:12}".format(*row) + text, flush=True)
        left, num_runs = left - len(rows), num_runs + 1
    print(f"{arguments.kills} kills in {num_runs} runs, {num_different} of them with other results")
    if not arguments.keep:
        shutil.rmtree(folder)
    sys.exit(1 if num_different else 0)


if __name__ == "__main__":
    main()
