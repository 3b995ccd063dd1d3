"""Programs under Landlock and a strict system-call filter: for containers without namespaces.

Docker's and Kubernetes' usual settings refuse namespaces but allow both of these to anybody. Files:
the interpreter, its packages and the system's libraries can be read, the scratch folder written,
no other opened (Landlock, Linux 5.13); their attributes are not covered. No network, no further
processes and no signals to others (`seccomp`). Root also becomes an unused user, so that the limit
on threads binds and files closed to others stay so.
"""

import fcntl
import os
import stat
import struct
import subprocess
import tempfile
from itertools import filterfalse
from pathlib import Path

from . import kernel, seccomp
from .namespaces import SYSTEM

# Rights of linux/landlock.h, bit by bit, and how many bits each version of the interface knows.
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # 16 from version 5 on
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_NET_RIGHTS, _SCOPES = 0b11, 0b11  # TCP bind and connect; abstract sockets and signals
_PATH_BENEATH = 1


class Landlock:
    """Prepares this process to run programs under Landlock.

    Raises:
        OSError: the kernel does not offer it.
    """

    def __init__(self, readable: list[str]) -> None:
        self.uid = kernel.unused_uid()
        self.paths = [path for path in {*SYSTEM, *readable} if os.path.exists(path)]
        self.version = kernel.call("syscall", kernel.LANDLOCK_CREATE_RULESET, None, 0, 1)
        self.rights = (1 << _NUM_RIGHTS.get(self.version, 16)) - 1
        # An interpreter under /root: an unused user reaches it through descriptors held open.
        shut = [] if self.uid is None else filterfalse(_others_can_reach, readable)
        self.held = {path: _hold(path) for path in shut}
        self.scratch = ""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # nobody of the same user looks into this process

    def fork(self) -> int:
        """os.fork after making a scratch folder on disk."""
        self.scratch = tempfile.mkdtemp(prefix="sandbox-")
        if self.uid is not None:
            os.chown(self.scratch, self.uid, self.uid)
        return os.fork()

    def enter(self, scratch_mib: int) -> None:
        """In that child: the scratch folder becomes the working folder; its size has no limit."""
        os.chdir(self.scratch)

    def lock(self) -> None:
        """In the process that becomes the program: no way back, no powers."""
        ruleset = self._ruleset()
        kernel.give_up_powers(self.uid)
        kernel.call("syscall", kernel.LANDLOCK_RESTRICT_SELF, ruleset, 0)
        seccomp.install(alone=True)

    def path_inside(self, path: str) -> str:
        """The name by which the program reaches a readable path."""
        for folder, descriptor in self.held.items():
            if f"{path}/".startswith(f"{folder}/"):
                return f"/proc/self/fd/{descriptor}{path.removeprefix(folder)}"
        return path

    def max_tasks(self, limit: int) -> int:
        """RLIMIT_NPROC for `limit` tasks beside what the same user runs already."""
        return limit + (kernel.num_tasks(os.geteuid()) if self.uid is None else 0)

    def resident_mib(self) -> int:
        """0: there is one process, and its address space is limited."""
        return 0

    def clean(self) -> None:
        """Remove the scratch folder; rm copes with trees deeper than Python's recursion."""
        remove = ["rm", "-rf", "--", self.scratch]
        if subprocess.run(remove, stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run(["chmod", "-R", "u+rwx", "--", self.scratch], check=False)
            subprocess.run(remove, check=True)

    def _ruleset(self) -> int:
        handled = struct.pack("QQQ", self.rights, *self._newer())
        ruleset = kernel.call(
            "syscall", kernel.LANDLOCK_CREATE_RULESET, handled, self._struct_size(), 0
        )
        for path in self.paths:
            self._allow(ruleset, path, _READ)
        self._allow(ruleset, "/dev/null", _READ | _WRITE_FILE)
        self._allow(ruleset, self.scratch, self.rights)
        return ruleset

    def _newer(self) -> tuple[int, int]:
        """Network rights (version 4) and scopes (version 6), as far as the kernel knows them."""
        return _NET_RIGHTS * (self.version >= 4), _SCOPES * (self.version >= 6)

    def _struct_size(self) -> int:
        return 8 + 8 * (self.version >= 4) + 8 * (self.version >= 6)

    def _allow(self, ruleset: int, path: str, rights: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights & self.rights, descriptor)
        kernel.call("syscall", kernel.LANDLOCK_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        os.close(descriptor)


def _others_can_reach(path: str) -> bool:
    """Whether any user may pass through the folders above `path`."""
    return all(os.stat(folder).st_mode & 0o1 for folder in Path(path).parents)


def _hold(path: str) -> int:
    """A descriptor of `path` that exec keeps, clear of the numbers that programs are given."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    held = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 32)
    os.close(descriptor)
    return held
