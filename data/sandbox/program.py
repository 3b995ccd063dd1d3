"""The process of one program: it gives up its rights, runs the program and reports the verdict.

A program has passed if the worker reads back a random token. The token comes to the program's
process through a pipe, is taken off it before the program starts and is from then on only an
operand of a half-evaluated expression (`_STUB`): in no variable, file, argument or object that
refers to it. Evaluation continues, and writes the token, when the program text has run to its end
with no exception; with a builtin still replaced or a trace function still set it writes nothing.
"""

import fcntl
import json
import os
import resource
import signal
from typing import Any, NoReturn

from . import kernel

SOURCE_FD, TOKEN_FD, VERDICT_FD = 3, 4, 5

_STUB = f"""
def run():
    import builtins, operator, posix, sys
    is_, now, trace, profile = operator.is_, vars(builtins).values, sys.gettrace, sys.getprofile
    read, write, all_, map_, exec_ = posix.read, posix.write, all, map, exec
    before, namespace = (*now(),), vars(sys.modules["__main__"])
    with open({SOURCE_FD}, encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    sys.path[:] = sys.argv[1:]
    sys.argv[:] = ["program.py"]
    code = compile(source, "program.py", "exec", dont_inherit=True)
    del namespace["run"]
    written = write({VERDICT_FD}, read({TOKEN_FD}, 64)[: exec_(code, namespace)][
        : 64 * all_(map_(is_, before, now())) * (namespace["__builtins__"] is builtins)
    ][: 64 * (trace() is profile() is None)])
    if not written:
        raise RuntimeError("builtins were replaced or a trace function was left behind")
run()
"""


def begin(
    confinement: Any, settings: dict[str, Any], descriptors: list[int], report: int
) -> NoReturn:
    """First process of a program: starts it, collects the dead, reports how it ended."""
    os.setsid()
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 16)  # clear of the numbers used below
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        confinement.enter(settings["scratch_mib"])
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # the program must not look in here
        program = os.fork()
        if not program:
            _become(confinement, settings, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        pid = 0
        while pid != program:
            pid, status, usage = os.wait4(-1, 0)
        answer = {"status": status, "cpu_s": usage.ru_utime + usage.ru_stime}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    os.write(report, json.dumps(answer).encode() + b"\n")  # one line, or two if exec failed
    os._exit(0)


def _become(confinement: Any, settings: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Turn this process into the program; raises where something is not permitted."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16) for descriptor in descriptors]
    output, source, token, verdict = high
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    targets = {1: output, 2: output, SOURCE_FD: source, TOKEN_FD: token, VERDICT_FD: verdict}
    for target, descriptor in targets.items():
        os.dup2(descriptor, target)
    folder = os.getcwd()
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    environment = {
        **settings["environment"],
        "HOME": folder,
        "TMPDIR": folder,
        "USER": "sandbox",
        "PYTHONHASHSEED": "0",  # the same program gets the same verdict
        "MPLBACKEND": "Agg",
        "MALLOC_ARENA_MAX": "2",  # every arena takes 64 MiB of address space
        **one_thread,
    }
    python, *path = map(confinement.path_inside, [settings["python"], *settings["path"]])
    libraries = [f for f in environment.get("LD_LIBRARY_PATH", "").split(":") if f]
    if python != settings["python"]:  # its libpython is looked for under the old name
        libraries.append(os.path.realpath(f"{settings['python']}/../../lib"))
    if libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(map(confinement.path_inside, libraries))
    _limit(settings, confinement.max_tasks(settings["num_tasks"]))
    confinement.lock()
    command = [python, "-S", "-s", "-P", "-B", "-c", _STUB, *path]
    os.execve(python, command, environment)


def _limit(settings: dict[str, Any], max_tasks: int) -> None:
    mib = 1 << 20
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, settings["cpu_s"], settings["cpu_s"] + 1),
        (resource.RLIMIT_AS, *[settings["memory_mib"] * mib] * 2),
        (resource.RLIMIT_FSIZE, *[settings["file_mib"] * mib] * 2),
        (resource.RLIMIT_NOFILE, *[settings["num_open_files"]] * 2),
        (resource.RLIMIT_NPROC, max_tasks, max_tasks),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))
