"""The side that the rest of the project sees: programs in, outcomes out, in order."""

import functools
import json
import logging
import os
import select
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

Status = Literal["passed", "failed", "timeout", "memory", "killed"]
GRACE_S = 30  # for a worker to answer after a program's time is up


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use.

    Attributes:
        cpu_s: CPU seconds of each of its processes.
        wall_s: seconds until its verdict; generous, since verdicts should not depend on load.
        memory_mib: address space of each process, and resident memory of all of them.
        file_mib: size of a file it writes.
        scratch_mib: all its files together (in namespaces).
        num_open_files: open files of each process.
        num_tasks: processes and threads, all together.
    """

    cpu_s: int = 3
    wall_s: float = 10.0
    memory_mib: int = 1024
    file_mib: int = 16
    scratch_mib: int = 64
    num_open_files: int = 64
    num_tasks: int = 32


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one program.

    Attributes:
        status: "passed" (ran to its end), "failed" (an exception, or an early exit), "timeout" (CPU
            or wall time), "memory" or "killed" (by a signal, its own or not).
        detail: why, in a line; taken from what the program printed, so not to be relied on.
        wall_s: seconds from its start to the verdict.
    """

    status: Status
    detail: str
    wall_s: float


def run_programs(
    programs: Iterable[str],
    limits: Limits | None = None,
    num_workers: int | None = None,
    confinement: Literal["namespaces", "landlock"] | None = None,
) -> Iterator[Outcome]:
    """One outcome a program, in their order, as soon as it and those before it are known.

    Args:
        programs: Python source texts; taken as workers become free.
        limits: for each of them.
        num_workers: programs that run at once; as many as this process has cores if None.
        confinement: the best this machine permits if None.

    Raises:
        ValueError: num_workers is below 1.
        RuntimeError: programs cannot be confined here; the message says why.
    """
    limits = limits or Limits()
    confinement = confinement or best_confinement()
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0))
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, found {num_workers}")
    waiting = enumerate(programs)
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    known: dict[int, Outcome] = {}
    number = 0
    try:
        while True:
            while len(busy) < num_workers and (program := next(waiting, None)):
                worker = idle.pop() if idle else _Worker(limits, confinement)
                worker.send(*program)
                busy.append(worker)
            if not busy:
                return
            for worker in _ready(busy):
                busy.remove(worker)
                known[worker.number] = worker.outcome()
                if worker.process.poll() is None:
                    idle.append(worker)
            while number in known:
                yield known.pop(number)
                number += 1
    finally:
        for worker in busy + idle:
            worker.close()


@functools.cache
def best_confinement() -> Literal["namespaces", "landlock"]:
    """The first of the two in which a program really runs here.

    Raises:
        RuntimeError: neither does.
    """
    reasons = []
    for confinement in ("namespaces", "landlock"):
        try:
            outcomes = list(run_programs(["pass"], Limits(), 1, confinement))
        except RuntimeError as error:
            reasons.append(str(error))
            continue
        if outcomes[0].status == "passed":
            return confinement
        reasons.append(f"{confinement}: {outcomes[0].status}, {outcomes[0].detail}")
    raise RuntimeError(
        "programs cannot be confined here, so none is run ("
        + "; ".join(reasons)
        + "). Needed: user namespaces or root with CAP_SYS_ADMIN, or Linux 5.13 with Landlock; and "
        "an interpreter that other users can read where this process is root"
    )


class _Worker:
    """A worker process and the number of the program it has."""

    def __init__(self, limits: Limits, confinement: str) -> None:
        path = _packages()
        settings = {
            **asdict(limits),
            "confinement": confinement,
            "python": os.path.realpath(sys.executable),
            "path": path,
            "readable": [os.path.realpath(sys.base_prefix), *path],
            "environment": {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        }
        if libraries := os.environ.get("LD_LIBRARY_PATH"):  # some interpreters need theirs
            settings["environment"]["LD_LIBRARY_PATH"] = libraries
            settings["readable"] += filter(
                os.path.isdir, map(os.path.realpath, libraries.split(":"))
            )
        start = "import sys; sys.path.append(sys.argv.pop(1)); import sandbox.worker as worker; "
        command = [settings["python"], "-S", "-s", "-P", "-c", start + "worker.main()"]
        self.confinement, self.number, self.sent = confinement, -1, 0.0
        self.process = subprocess.Popen(
            [*command, str(Path(__file__).parents[1]), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=settings["environment"],
            start_new_session=True,
        )
        self.patience_s = limits.wall_s + GRACE_S

    def send(self, number: int, program: str) -> None:
        """Start a program; `outcome` tells what became of it."""
        assert self.process.stdin
        self.number, self.sent = number, time.monotonic()
        text = program.encode("utf-8", "surrogatepass")
        with suppress(BrokenPipeError):  # a dead worker is noticed by its silence
            self.process.stdin.write(len(text).to_bytes(8, "big") + text)
            self.process.stdin.flush()

    def outcome(self) -> Outcome:
        """The answer; a worker that died or hangs costs its program, and is not used again.

        Raises:
            RuntimeError: it could not confine the program, and so did not run it.
        """
        assert self.process.stdout
        has_answered = bool(_readable([self], 0))
        line = self.process.stdout.readline() if has_answered else b""
        if not line:
            self.close(at_once=True)
            reason = f"its worker {'died' if has_answered else 'hung'}"
            logger.warning("a program counts as killed: %s", reason)
            return Outcome("killed", reason, round(time.monotonic() - self.sent, 4))
        answer = json.loads(line)
        if answer["status"] == "broken":
            self.close()
            raise RuntimeError(f"{self.confinement}: {answer['detail']}")
        return Outcome(**answer)

    def is_late(self) -> bool:
        """Whether an answer is overdue, which the worker itself should have prevented."""
        return time.monotonic() > self.sent + self.patience_s

    def close(self, at_once: bool = False) -> None:
        """End the worker, and with it whatever it runs."""
        assert self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(0 if at_once else GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _ready(busy: list[_Worker]) -> list[_Worker]:
    """The workers that have answered, died or run out of time; waits for the first."""
    while not (ready := _readable(busy, 1000)):
        if ready := [worker for worker in busy if worker.is_late()]:
            break
    return ready


def _readable(workers: list[_Worker], timeout_ms: int) -> list[_Worker]:
    """The workers with an answer, or the end of their output, to read."""
    by_descriptor = {w.process.stdout.fileno(): w for w in workers if w.process.stdout}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(timeout_ms)]


def _packages() -> list[str]:
    """Where programs find modules: the standard library and installed packages, nothing else."""
    standard = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
    standard |= {f"{folder}/lib-dynload" for folder in standard}
    folders = [os.path.realpath(entry) for entry in sys.path if os.path.isdir(entry)]
    names = ("site-packages", "dist-packages")
    return [f for f in folders if f in standard or os.path.basename(f) in names]
