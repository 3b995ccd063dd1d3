"""Runs untrusted Python programs, each in a process of its own, and says which ran to their end.

    for outcome in run_programs(["assert 1 + 1 == 2", "import sys; sys.exit(0)"]):
        ...  # Outcome("passed", ...), Outcome("failed", "exit code 0 before its end", ...)

A program has passed when its whole text ran without an exception; tests are its last lines. It gets
a clean environment, no standard input, no sockets, no capabilities, the system calls on a list, a
scratch folder that goes away, limits on CPU time, wall time, memory, file size, open files and
processes, and no process of it is left after its verdict. Two ways to do that, the first if the
machine permits it: `namespaces` (as root, or as anybody where user namespaces are allowed) and
`landlock` (containers that allow no namespaces).

What this does not protect against:
- A program shares the interpreter with its tests and can lie to them: return an object that equals
  everything, patch a library that the tests use, or undo before the end what would be found there
  (a replaced builtin, a trace function that skips assertions). With ctypes or /proc/self/mem it can
  search its own memory for the token that means "passed".
- Holes in the kernel: programs make system calls to the same kernel as everybody else.
- Reading: what is installed beside the interpreter, and /usr, can be read.
- Load: a program may use one core, and its memory limit, until its time is up. In `namespaces` its
  processes together may use more cores; kernel buffers (pipes, sockets) are not counted as memory.
- With `landlock`: programs can ask for sizes and times of files wherever their user could, cannot
  start processes or change times and modes of files, and many small files may fill the disk that
  holds the temporary folder until the program ends.
"""

from .harness import Limits, Outcome, best_confinement, run_programs

__all__ = ["Limits", "Outcome", "best_confinement", "run_programs"]
