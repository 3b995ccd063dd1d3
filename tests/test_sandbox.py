"""Programs run to their end or are stopped; hostile ones harm nothing and leave nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from data.sandbox import (
    Limits,
    Outcome,
    best_confinement,
    harness,
    run_programs,
    seccomp,
    system_calls,
)

REPOSITORY = Path(__file__).parents[1]
HOSTILE = sorted((REPOSITORY / "tests" / "hostile").glob("*.py"))
# A wall time of this process's own tells its workers from those of tests beside it.
LIMITS = Limits(cpu_s=1, wall_s=10 + os.getpid() / 1e8, memory_mib=384)
ENDLESS_LIMITS = Limits(cpu_s=1, wall_s=1.5 + os.getpid() / 1e8, memory_mib=384)
CONFINEMENTS = ("namespaces", "landlock")
SECRET = "SANDBOX_TEST_API_KEY"


def available(confinement: str) -> bool:
    try:
        return [o.status for o in run_programs(["pass"], LIMITS, 1, confinement)] == ["passed"]
    except RuntimeError:
        return False


@pytest.fixture(scope="module", params=CONFINEMENTS)
def confinement(request: pytest.FixtureRequest) -> str:
    if not available(request.param):
        pytest.skip(f"{request.param}: not permitted on this machine")
    return request.param


def outcomes(programs: list[str], confinement: str, limits=LIMITS, **options) -> list[Outcome]:
    return list(run_programs(programs, limits, confinement=confinement, **options))


def statuses(programs: list[str], confinement: str, **options) -> list[str]:
    return [outcome.status for outcome in outcomes(programs, confinement, **options)]


def sandboxed() -> set[int]:
    """Sandbox processes that are this test process's, or nobody's any more."""
    commands, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            commands[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
    found = set()
    for pid, command in commands.items():
        if b"posix.write" not in command and b"sandbox.worker" not in command:
            continue
        worker = pid
        while worker in parents and b"sandbox.worker" not in commands[worker]:
            worker = parents[worker]
        marks = [f'"wall_s": {limits.wall_s}'.encode() for limits in (LIMITS, ENDLESS_LIMITS)]
        if worker not in parents or any(mark in commands[worker] for mark in marks):
            found.add(pid)
    return found


def processes_left(seconds: float) -> set[int]:
    """Those that run now and still do after `seconds`."""
    left = sandboxed()
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left &= sandboxed()
    return left


class Surroundings:
    """What hostile programs are pointed at, and would have to leave a mark on."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary"
        self.canary.mkdir()
        (self.canary / "file").write_text("precious")
        for path in (folder, self.canary):
            path.chmod(0o777)  # permission bits protect nothing here
        (self.canary / "file").chmod(0o666)
        self.servers = [
            socket.socket(socket.AF_INET),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        ]
        self.servers += [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
        self.servers.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self.servers[0].bind(("127.0.0.1", 0))
        self.port = self.servers[0].getsockname()[1]
        self.servers[1].bind(("127.0.0.1", self.port))
        self.socket = folder / "s"
        self.servers[2].bind(str(self.socket))
        self.abstract = f"sandbox-test-{os.getpid()}"
        self.servers[3].bind(f"\0{self.abstract}")
        self.datagrams = folder / "d"
        self.servers[4].bind(str(self.datagrams))
        for path in (self.socket, self.datagrams):
            path.chmod(0o666)
        for server in self.servers:
            server.setblocking(False)
            if server.type == socket.SOCK_STREAM:
                server.listen()

    def program(self, path: Path) -> str:
        """A hostile program that knows where to aim."""
        places = {
            "SOCKET": self.socket,
            "DATAGRAMS": self.datagrams,
            "CANARY": self.canary,
            "REPOSITORY": REPOSITORY,
            "PORT": self.port,
            "ABSTRACT": self.abstract,
        }
        text = path.read_text()
        for name, place in places.items():
            text = text.replace(f"@{name}@", str(place))
        assert not re.findall(r"@[A-Z]+@", text)
        return text

    def marks(self) -> list[str]:
        """What has been done to them."""
        found = [f"{p} appeared" for p in self.canary.iterdir() if p.name != "file"]
        if (self.canary / "file").read_text() != "precious":
            found.append("the canary's file was changed")
        if self.canary.stat().st_mtime < time.time() - 3600:
            found.append("the canary's time was changed")
        for server in self.servers:
            with suppress(BlockingIOError):
                is_stream = server.type == socket.SOCK_STREAM
                found.append(f"{server}: {server.accept() if is_stream else server.recv(100)}")
        for folder in (
            "/",
            "/usr",
            "/etc",
            "/var/tmp",
            "/run",
            "/home",
            "/root",
            "/tmp",
            *sys.path,
        ):
            if os.path.exists(os.path.join(folder, "planted-by-hostile-program")):
                found.append(f"something was planted in {folder}")
        return found


def expected(path: Path, confinement: str) -> str:
    """The status a hostile program says it ends with."""
    line = re.search(r"^Ends: (\w+)(?: \(landlock: (\w+)\))?$", path.read_text(), re.MULTILINE)
    assert line, f"{path}: its docstring must say how it ends"
    usual, in_landlock = line.groups()
    return in_landlock if in_landlock and confinement == "landlock" else usual


@pytest.fixture(scope="module")
def hostile(confinement: str) -> Iterator[dict[Path, Outcome]]:
    """What became of every hostile program, after making sure that nothing else became of it."""
    with tempfile.TemporaryDirectory() as folder:  # reachable for everybody, unlike tmp_path
        yield _run_hostile(confinement, Surroundings(Path(folder)))


def _run_hostile(confinement: str, surroundings: Surroundings) -> dict[Path, Outcome]:
    endless = [path for path in HOSTILE if expected(path, confinement) == "timeout"]
    others = [path for path in HOSTILE if path not in endless]
    found: dict[Path, Outcome] = {}
    os.environ[SECRET] = "secret"
    try:
        for paths, limits, num_workers in (
            (endless, ENDLESS_LIMITS, len(endless)),
            (others, LIMITS, 2),
        ):
            programs = [surroundings.program(path) for path in paths]
            ended = run_programs(programs, limits, num_workers, confinement)
            found |= zip(paths, ended, strict=True)
    finally:
        del os.environ[SECRET]
    assert surroundings.marks() == []
    return found


def test_there_are_at_least_25_hostile_programs() -> None:
    assert len(HOSTILE) >= 25


@pytest.mark.long
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.stem)
def test_hostile_program_is_contained(path: Path, hostile, confinement: str) -> None:
    outcome = hostile[path]
    assert outcome.status == expected(path, confinement), outcome
    assert outcome.wall_s < LIMITS.wall_s + 1


@pytest.mark.long
def test_hostile_programs_leave_no_process(hostile) -> None:
    assert hostile
    assert processes_left(5) == set()


def test_a_program_passes_only_at_its_end(confinement: str) -> None:
    programs = {
        "": "passed",
        "assert 1 + 1 == 2": "passed",
        "assert 1 + 1 == 3": "failed",
        "def f(:": "failed",
        "print('passed')\nraise ValueError('no')": "failed",
        "text = '\ud800'": "failed",  # a lone surrogate, as a model may write it
        "x = 1\0": "failed",
        "x = [0] * 10**9": "memory",
        "import os; os.abort()": "killed",
    }
    assert statuses(list(programs), confinement, num_workers=4) == list(programs.values())


def test_detail_says_why(confinement: str) -> None:
    programs = {
        "assert 1 + 1 == 3, 'two'": "AssertionError: two",
        "print('so far'); raise SystemExit": "exit code 0 before its end; last output: so far",
        "import os; os.abort()": "signal 6 (Aborted)",
        "import time; time.sleep(60)": "more than 0.5 s of wall time",
    }
    found = outcomes(list(programs), confinement, Limits(wall_s=0.5))
    assert [outcome.detail for outcome in found] == list(programs.values())


@pytest.mark.long
def test_the_limit_on_cpu_time_cannot_be_ignored(confinement: str) -> None:
    program = "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    (outcome,) = outcomes([program], confinement)
    assert (outcome.status, outcome.detail) == ("timeout", "more than 1 s of CPU time")


def test_long_programs_and_long_lists_arrive_whole(confinement: str) -> None:
    program = "\n".join(f"x{i} = {i}" for i in range(20_000)) + "\nassert x19999 == 19999"
    assert len(program) > 1 << 18
    assert statuses([program] * 3 + [program + "9"], confinement) == ["passed"] * 3 + ["failed"]


def test_outcomes_come_in_the_order_of_the_programs(confinement: str) -> None:
    programs = [
        f"import time; time.sleep({0.1 - n / 150}); raise ValueError({n})" for n in range(12)
    ]
    found = [outcome.detail for outcome in outcomes(programs, confinement, num_workers=4)]
    assert found == [f"ValueError: {n}" for n in range(12)]


def test_verdict_does_not_wait_for_threads(confinement: str) -> None:
    program = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    (outcome,) = outcomes([program], confinement)
    assert outcome.status == "passed"
    assert outcome.wall_s < 1


def test_programs_are_scripts_with_packages_and_a_fresh_folder(confinement: str) -> None:
    script = """
import dataclasses, os, pickle, sys, tempfile
import numpy
assert __name__ == "__main__" and sys.argv == ["program.py"] and numpy.ones(3).sum() == 3

@dataclasses.dataclass
class Point:
    x: int = 1

assert pickle.loads(pickle.dumps(Point(3))) == Point(3)
assert os.listdir() == [] and tempfile.gettempdir() == os.getcwd() == os.environ["HOME"]
assert not [name for name in os.environ if "KEY" in name or "PROXY" in name.upper()]
os.makedirs("a/b")
open("a/b/file", "w").write("x" * 1000)
"""
    assert statuses([script, script], confinement, num_workers=1) == ["passed", "passed"]


def test_honest_programs_have_the_calls_they_need(confinement: str) -> None:
    program = """
import asyncio, ctypes, doctest, mmap, os, select, signal, socket, sqlite3, ssl, tarfile, threading
import resource, tempfile, time, uuid
from concurrent.futures import ThreadPoolExecutor

async def later():
    return await asyncio.to_thread(lambda: 7)

assert asyncio.run(later()) == 7 and doctest.testmod().failed == 0 and uuid.uuid1()
with ThreadPoolExecutor(3) as pool:
    assert list(pool.map(abs, [-1, 2])) == [1, 2]
one, other = socket.socketpair()
one.sendall(b"x")
assert select.select([other], [], [], 1)[0] and other.recv(9) == b"x"
with sqlite3.connect("base") as base:
    base.execute("create table t (x)")
with open("file", "w+b") as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 0) as memory:
        memory[0] = 1
with tarfile.open("t.tgz", "w:gz") as archive:
    archive.add("file")
os.mkfifo("fifo"), os.rename("file", "new"), os.symlink("new", "link"), os.statvfs(".")
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
signal.signal(signal.SIGALRM, lambda *details: 1 / 0)
signal.setitimer(signal.ITIMER_REAL, 0.01)
try:
    time.sleep(5)
except ZeroDivisionError:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN), os.kill(os.getpid(), signal.SIGUSR1)
else:
    raise TimeoutError
"""
    (outcome,) = outcomes([program], confinement)
    assert outcome.status == "passed", outcome


def test_the_same_program_gets_the_same_verdict(confinement: str) -> None:
    program = "raise ValueError(''.join({'a', 'b', 'c', 'd', 'e', 'f'}))"
    details = {outcome.detail for outcome in outcomes([program] * 8, confinement)}
    assert len(details) == 1


def test_processes_and_threads_are_bounded(confinement: str) -> None:
    program = """
import threading, time
num_started = 0
try:
    while num_started < 200:
        threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()
        num_started += 1
except RuntimeError:
    pass
raise ValueError(num_started)
"""
    (outcome,) = outcomes([program], confinement, Limits(num_tasks=10))
    assert 5 <= int(outcome.detail.removeprefix("ValueError: ")) < 30


def test_a_program_has_no_powers(confinement: str) -> None:
    running = run_programs(["pass", "import time; time.sleep(60)"], LIMITS, 2, confinement)
    assert next(running).status == "passed"
    found: dict[str, str] = {}
    deadline = time.monotonic() + 10
    while found.get("Seccomp") != "2" and time.monotonic() < deadline:
        for pid in sandboxed():
            with suppress(OSError):
                if b"posix.write" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    running.close()
    kinds = ["Inh", "Prm", "Eff", "Amb"]
    if confinement == "namespaces" or os.geteuid() == 0:  # else exec cannot use the bounding set
        kinds.append("Bnd")
    assert {kind: int(found[f"Cap{kind}"], 16) for kind in kinds} == dict.fromkeys(kinds, 0)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert "0" not in found["Uid"].split() + found["Gid"].split() + found["Groups"].split()


def filtered(code: list[seccomp.Instruction], arch: int, number: int, *arguments: int) -> int:
    """What the kernel would make of a system call: the value that the filter returns."""
    data = {0: number, 4: arch} | {16 + 8 * i: value for i, value in enumerate(arguments)}
    position = accumulator = 0
    while True:
        operation, if_true, if_false, value = code[position]
        position += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = data.get(value, 0)
        elif operation == 0x54:
            accumulator &= value
        else:
            jumps = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x35: accumulator >= value,
                0x45: accumulator & value,
            }
            position += if_true if jumps[operation] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("alone", [False, True])
def test_only_listed_calls_pass_the_filter(machine: str, alone: bool) -> None:
    code = seccomp._instructions(machine, 7, alone)
    allow, eperm, enosys, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000
    arch = seccomp.AUDIT_ARCH[machine]
    plain = [system_calls.FILES, system_calls.WAITING, system_calls.ITSELF, system_calls.PAIR]
    apart = system_calls.numbers(f"{system_calls.APART}, {system_calls.SIGNALS}", machine)
    allowed = {n for table in plain for n in system_calls.numbers(table, machine).values()}
    checked = system_calls.numbers(system_calls.CHECKED, machine)
    if not alone:
        allowed |= set(apart.values())
    decided = {*checked.values(), *apart.values()}
    for number in range(600):
        expected = allow if number in allowed else eperm if number < 424 else enosys
        if number not in decided or number in allowed:
            assert filtered(code, arch, number) == expected, number
    for name, arguments, wanted in (
        ("mmap", (0, 4096, 3, 0x22), allow),
        ("mmap", (0, 4096, 3, 0x40022), eperm),
        ("clone", (0x3D0F00,), allow),  # a thread
        ("clone", (0x1200011,), eperm if alone else allow),  # a process
        ("clone", (0x10000011,), eperm),
        ("fcntl", (3, 1030), allow),
        ("fcntl", (3, 8), eperm),
        ("ioctl", (3, 0x5401), allow),
        ("ioctl", (3, 0x5412), eperm),
        ("prctl", (15,), allow),
        ("prctl", (1,), eperm),
        ("prlimit64", (0,), allow),
        ("prlimit64", (7,), allow),
        ("prlimit64", (1,), eperm),
        ("socketpair", (1, 0x80801), allow),
        ("socketpair", (1, 2), eperm),
        ("socketpair", (40, 1), eperm),
    ):
        assert filtered(code, arch, checked[name], *arguments) == wanted, (name, arguments)
    for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        assert filtered(code, arch, apart[name], 7) == allow
        assert filtered(code, arch, apart[name], 8) == (eperm if alone else allow)
    other = {"x86_64": 0x40000003, "aarch64": 0x40000028}[machine]  # i386, 32-bit ARM
    assert filtered(code, other, 0) == kill
    assert filtered(code, arch, 0x40000000) == enosys


def test_stopping_early_leaves_nothing(confinement: str) -> None:
    running = run_programs(["pass", *["import time; time.sleep(60)"] * 3], LIMITS, 3, confinement)
    assert next(running).status == "passed"
    running.close()
    assert processes_left(5) == set()


def test_a_killed_harness_leaves_nothing(confinement: str) -> None:
    code = (
        "from data.sandbox import *; print('go', flush=True); "
        f"list(run_programs(['import time; time.sleep(60)'] * 2, {LIMITS}, 2, {confinement!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"go\n"
        time.sleep(0.5)
        started = sandboxed()
        process.kill()
    assert started
    assert processes_left(5) == set()


def test_a_dead_worker_costs_one_program(confinement: str) -> None:
    running = run_programs(["pass", "import time; time.sleep(60)", "pass"], LIMITS, 1, confinement)
    before = sandboxed()
    assert next(running).status == "passed"
    # The second program is on its way: its worker is new, and dies.
    for pid in sandboxed() - before:
        os.kill(pid, signal.SIGKILL)
    rest = list(running)
    assert [outcome.status for outcome in rest] == ["killed", "passed"]
    assert rest[0].detail == "its worker died"


def test_a_container_without_namespaces_uses_landlock() -> None:
    if not available("landlock"):
        pytest.skip("landlock: not permitted on this machine")
    code = """
import os
from pathlib import Path
from data.sandbox import best_confinement, kernel, run_programs
uid, gid = os.geteuid(), os.getegid()
kernel.call("unshare", 0x10000000)
Path("/proc/self/setgroups").write_text("deny")
Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
print(best_confinement(), [outcome.status for outcome in run_programs(["pass", "assert False"])])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "uid_map" in done.stderr:
        pytest.skip("user namespaces: not permitted on this machine")
    assert done.stdout == "landlock ['passed', 'failed']\n", done.stderr


def test_where_nothing_confines_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "_packages", lambda: ["\0"])  # cannot be made readable
    best_confinement.cache_clear()
    with pytest.raises(RuntimeError, match=r"cannot be confined here, so none is run \(.*Needed: "):
        best_confinement()
    best_confinement.cache_clear()


def test_no_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_workers must be at least 1, found 0"):
        next(run_programs(["pass"], num_workers=0))
