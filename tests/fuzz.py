"""Hostile input by the thousand: each case ends in the right result or in one clear line.

    python tests/fuzz.py --cases 2000 --seed 0
    python tests/fuzz.py --seed 0 --only 17    # one case again, with all it printed

Every case is a command, run in a process of its own, on a copy of a small world in which one
thing was harmed: the recipe, an override, rows, a finished run, a scored file, a model's or an
adapter's folder, a judge's answers. Recipes and rows are of several scenes
(`support/fuzz/scenes.py`), which end well unharmed. A case and its number are the same for the
same seed.
"""

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from support.fuzz.case import Case
from support.fuzz.cases import KINDS
from support.fuzz.harm import clear
from support.fuzz.world import World, make_world

LONGEST_CASE_S = 60
LONGEST_LINE = 700
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def main() -> int:
    """The number of cases that ended in another way, at most 99."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--kind", choices=KINDS, help="only cases of this kind")
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.only is None else [arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder, "whole"))
        faults, ends = 0, Counter()
        for number in numbers:
            kind = kind_of(number)
            if arguments.kind not in (None, kind):
                continue
            began = time.monotonic()
            case, done, fault = run_case(world, arguments.seed, number, Path(folder, "case"))
            ends[kind, "fault" if fault else "one line" if done.returncode else "right"] += 1
            if fault or arguments.only is not None:
                faults += bool(fault)
                line = last_line(done)
                print(f"{number} {kind} ({time.monotonic() - began:.1f} s): {case.harm[:300]!r}")
                print(f"    {' '.join(case.arguments)[:300]!r}\n    {fault or 'right'}: {line}")
                if arguments.only is not None:
                    print(done.stdout, done.stderr, sep="\n")
                sys.stdout.flush()
    for (kind, end), count in sorted(ends.items()):
        print(f"{kind:<16}{end:<10}{count:>6}")
    print(f"{sum(ends.values())} cases, {faults} faults")
    return min(faults, 99)


def kind_of(number: int) -> str:
    """Kinds take turns."""
    return list(KINDS)[number % len(KINDS)]


def run_case(
    whole: World, seed: int, number: int, folder: Path
) -> tuple[Case, subprocess.CompletedProcess, str]:
    """A case, how its command ended, and what is wrong with that ("" for nothing)."""
    clear(folder)
    world = whole.copy(folder)
    case = KINDS[kind_of(number)](world, random.Random(f"{seed}:{number}"))
    done = end_of(case, world)
    return case, done, fault_in(case, done, whole, world)


def end_of(case: Case, world: World) -> subprocess.CompletedProcess:
    """How a case's command ends, which its judge answers."""
    with answering(case.answers) as port:
        recipe = world.folder / "recipe.yaml"
        if case.answers and recipe.is_file():
            recipe.write_bytes(recipe.read_bytes().replace(b"{port}", b"%d" % port))
        return world.run(case.arguments, LONGEST_CASE_S)


def fault_in(case: Case, done: subprocess.CompletedProcess, whole: World, world: World) -> str:
    """What is wrong with how a command ended, "" for nothing."""
    said = done.stdout + done.stderr
    if "Traceback (most recent call last)" in said:
        return "traceback"
    if done.returncode == 0:
        if case.same_results and not same_metrics(whole, world):
            return "other results"
        return ""
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    line = last_line(done)
    errors = [line for line in said.splitlines() if re.match(r"(\S+\.py: )?error: ", line)]
    if len(errors) != 1 or errors[0] != line:
        return f"{len(errors)} lines of error"
    if CONTROL.search(line):
        return "control characters"
    if len(line) > LONGEST_LINE:
        return f"a line of {len(line)} characters"
    if not any(name and name in line for name in case.names):
        return f"names none of {', '.join(case.names)}"
    return ""


def same_metrics(whole: World, world: World) -> bool:
    """Whether the runs have the results they had."""
    return all(
        not (found := world.folder / run / "metrics.json").is_file()
        or scores(whole.folder / run / "metrics.json") == scores(found)
        for run in ("run", "full")
    )


def scores(path: Path) -> object:
    """What was measured, without the times it took."""
    metrics = json.loads(path.read_text())
    return {key: metrics.get(key) for key in ("antiexpert", "expert", "bases")}


def last_line(done: subprocess.CompletedProcess) -> str:
    """The last line that was said."""
    return (done.stderr.splitlines() or [""])[-1]


@contextmanager
def answering(answers: list[bytes]):
    """The port of a server that sends these bytes in turns to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            turn = 0
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(answers[turn % len(answers)])
                turn += 1

        if answers:
            Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        if answers:
            server.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    sys.exit(main())
