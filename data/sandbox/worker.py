"""The process between the harness and the programs: runs one program at a time, outlives them all.

Started by `run_programs` with `-S`, an empty environment and settings in `sys.argv`; reads programs
from standard input (length, then UTF-8) and answers each with a line of JSON.

    worker -> init -> program        (init and program in one group; in namespaces init is PID 1)
"""

import json
import os
import secrets
import select
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .landlock import Landlock
from .namespaces import Namespaces
from .program import begin

CONFINEMENTS = {"namespaces": Namespaces, "landlock": Landlock}
TAIL_BYTES = 4096  # of a program's output: enough for the last line of a traceback
POLL_S = 0.05


@dataclass(slots=True)
class _Run:
    """One program under way: what the worker holds of it."""

    init: int
    token: bytes
    output: int
    verdict: int
    report: int
    started: float
    tail: bytes = b""
    said: bytes = b""
    reported: bytes = b""

    def read(self, descriptor: int) -> bool:
        """Read what has been written; returns whether there was anything."""
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return False
        if descriptor == self.output:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        elif descriptor == self.verdict:
            self.said = (self.said + data)[: 2 * len(self.token)]
        else:
            self.reported += data
        return bool(data)


def main() -> None:
    """Answer programs until standard input ends."""
    settings = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    try:
        confinement = CONFINEMENTS[settings["confinement"]](settings["readable"])
    except OSError as error:
        _answer("broken", str(error), 0.0)
        return
    while (program := _next_program()) is not None:
        try:
            answer = _run(program, confinement, settings)
        except OSError as error:  # ours, not the program's: no processes, no disk
            answer = ("broken", str(error), 0.0)
        _answer(*answer)


def _next_program() -> bytes | None:
    head = sys.stdin.buffer.read(8)
    return sys.stdin.buffer.read(int.from_bytes(head, "big")) if len(head) == 8 else None


def _answer(status: str, detail: str, wall_s: float) -> None:
    sys.stdout.write(json.dumps({"status": status, "detail": detail, "wall_s": wall_s}) + "\n")
    sys.stdout.flush()


def _run(program: bytes, confinement: Any, settings: dict[str, Any]) -> tuple[str, str, float]:
    """The verdict on one program: status, detail, seconds."""
    run = _start(program, confinement, settings)
    try:
        why = _watch(run, confinement, settings)
    finally:
        wall_s = time.monotonic() - run.started
        for kill in (os.kill, os.killpg):  # in namespaces the first of them ends everything
            with suppress(ProcessLookupError):
                kill(run.init, signal.SIGKILL)
        with suppress(ChildProcessError):  # init, and whatever has been left to this process
            while os.waitpid(-1, 0):
                pass
        for descriptor in (run.output, run.verdict, run.report):
            while run.read(descriptor):
                pass
            os.close(descriptor)
        confinement.clean()
    return (*_verdict(run, why, settings), round(wall_s, 4))


def _start(program: bytes, confinement: Any, settings: dict[str, Any]) -> _Run:
    token = secrets.token_hex(16).encode()
    output, verdict, report = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
    token_read, token_write = os.pipe2(os.O_CLOEXEC)
    os.write(token_write, token)
    os.close(token_write)
    source = os.memfd_create("program")
    os.write(source, program)
    os.lseek(source, 0, os.SEEK_SET)
    started = time.monotonic()
    init = confinement.fork()
    if not init:
        begin(confinement, settings, [output[1], source, token_read, verdict[1]], report[1])
    for descriptor in (output[1], verdict[1], report[1], token_read, source):
        os.close(descriptor)
    for descriptor in (output[0], verdict[0], report[0]):
        os.set_blocking(descriptor, False)
    return _Run(init, token, output[0], verdict[0], report[0], started)


def _watch(run: _Run, confinement: Any, settings: dict[str, Any]) -> str:
    """Why there is nothing more to wait for: "passed", "ended", "timeout" or "memory"."""
    poll = select.poll()
    poll.register(sys.stdin, 0)  # only to hear that the harness is gone
    for descriptor in (run.output, run.verdict, run.report):
        poll.register(descriptor, select.POLLIN)
    deadline, next_look = run.started + settings["wall_s"], run.started + POLL_S
    while (now := time.monotonic()) < deadline:
        for descriptor, _ in poll.poll(1000 * min(POLL_S, deadline - now)):
            if descriptor == sys.stdin.fileno():
                raise SystemExit
            if not run.read(descriptor):
                poll.unregister(descriptor)
                if descriptor == run.report:
                    return "ended"
        if run.said == run.token:
            return "passed"
        if now >= next_look:
            next_look = now + POLL_S
            if confinement.resident_mib() > settings["memory_mib"]:
                return "memory"
    return "timeout"


def _verdict(run: _Run, why: str, settings: dict[str, Any]) -> tuple[str, str]:
    """Status and detail, from how the program's process ended and what it printed last."""
    if why == "timeout":
        return "timeout", f"more than {settings['wall_s']:g} s of wall time"
    if why == "memory":
        return "memory", f"more than {settings['memory_mib']} MiB in all processes"
    if run.said == run.token:
        return "passed", ""
    if not run.reported:
        return "killed", "its init process was killed"
    report = json.loads(run.reported.splitlines()[0])
    if "error" in report:
        return "broken", report["error"]
    lines = run.tail.decode(errors="replace").strip().splitlines() or [""]
    last = lines[-1].strip()[:200]
    code = os.waitstatus_to_exitcode(report["status"])
    at_hard_limit = code == -signal.SIGKILL and report["cpu_s"] > settings["cpu_s"]
    if code == -signal.SIGXCPU or at_hard_limit:
        return "timeout", f"more than {settings['cpu_s']} s of CPU time"
    if code < 0:
        return "killed", f"signal {-code} ({signal.strsignal(-code)})"
    if code == 1 and "MemoryError" in last.partition(":")[0]:
        return "memory", last
    if code == 1 and last:
        return "failed", last
    return "failed", f"exit code {code} before its end" + (f"; last output: {last}" if last else "")
