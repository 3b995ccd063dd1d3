"""Entries in processes forked from one that has imported what they need: a run starts at once.

A process that imports torch, transformers, trl and deepspeed takes eight CPU-seconds to begin. The
server, one for each process of tests, begins once, and forks for every run: the entry is
`__main__`, with arguments, environment and descriptors of its own, as if it had been started by
`accelerate launch`. What is about the launcher itself is tested with the launcher.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONGEST_RUN_S = 600


def run(
    arguments: list[str],
    environment: dict[str, str] | None = None,
    num_processes: int = 1,
    working_folder: Path = ROOT,
    longest_s: int = LONGEST_RUN_S,
) -> subprocess.CompletedProcess:
    """A finished run of an entry; with several processes, the code of the first that failed.

    Args:
        arguments: the entry's path and what follows it on the command line.
        environment: all of it, None for this process's own; what a launcher adds is added here.
        working_folder: where it is run.
        longest_s: seconds after which a process is ended by SIGALRM.
    """
    environment = dict(os.environ) if environment is None else environment
    added = {"ACCELERATE_MIXED_PRECISION": "no"}
    if num_processes == 1:
        environments = [environment | added | {"ACCELERATE_USE_CPU": "True"}]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            added |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        added |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
        ranks = map(str, range(num_processes))
        environments = [environment | added | {"RANK": r, "LOCAL_RANK": r} for r in ranks]
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        request = {"arguments": arguments, "environments": environments, "folder": folder}
        request |= {"working_folder": str(working_folder), "longest_s": longest_s}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        out, err = (Path(folder, name).read_text("utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(arguments, code, out, err)


@cache
def _server() -> subprocess.Popen:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # it ends with its input
    return server


def serve() -> None:
    """Fork for every request on standard input, and answer with the exit code."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what is imported may print

    import deepspeed
    import matplotlib.pyplot  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401  (what every run would import)
    import trl.trainer.dpo_trainer
    import trl.trainer.sft_trainer  # noqa: F401
    import wandb.sdk.data_types._private  # noqa: F401

    import train.sft  # noqa: F401

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # needs a compiler
    for line in sys.stdin:
        request = json.loads(line)
        children = [_fork(request, environment) for environment in request["environments"]]
        code, left = 0, set(children)
        while left:
            pid, status = os.wait()
            left.discard(pid)
            ended = os.waitstatus_to_exitcode(status)
            if ended and not code:
                code = ended
                for other in left:  # as torchrun does it
                    os.kill(other, signal.SIGTERM)
        print(json.dumps(code), file=answers, flush=True)


def _fork(request: dict, environment: dict[str, str]) -> int:
    """The id of a new process that runs the entry; the process itself does not return."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        for name, descriptor in (("stdout", 1), ("stderr", 2)):
            path = os.path.join(request["folder"], name)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["working_folder"])
        os.environ.clear()
        os.environ.update(environment)
        # W&B's folder for tables, which the first process to end would take from the others.
        from wandb.sdk.data_types._private import MEDIA_TMP

        MEDIA_TMP._finalizer.detach()
        MEDIA_TMP.name = tempfile.mkdtemp(dir=request["folder"])
        entry, *_ = sys.argv = request["arguments"]
        sys.path[0] = os.path.abspath(os.path.dirname(entry))
        signal.alarm(request["longest_s"])  # ends it if it hangs
        runpy.run_path(entry, run_name="__main__")
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            os.write(2, f"{stop.code}\n".encode())
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
