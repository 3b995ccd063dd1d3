"""Programs in namespaces of their own, out of reach of the machine's files and processes.

The worker moves into a new root that holds the interpreter, its packages and the system's libraries
(read-only), and into network, IPC and PID namespaces; an ordinary user gets a user namespace for
that first. Every program then gets a PID namespace (when its first process dies, the kernel kills
the rest, whatever session or group they moved to), a new /proc and a scratch folder in memory.
"""

import os
import signal
import struct
from pathlib import Path

from . import kernel, seccomp

MIN_LINUX = (5, 14)  # mount_setattr; RLIMIT_NPROC counted within a user namespace
SYSTEM = (  # what programs and their libraries read besides the interpreter
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/fonts"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
)
SCRATCH = "/scratch"
INSIDE_UID = 1000  # who an ordinary user is in there: not root, so that exec drops all powers

_NEW_USER, _NEW_PID, _NEW_MOUNT = 0x10000000, 0x20000000, 0x00020000
_NEW_NET, _NEW_IPC, _NEW_UTS = 0x40000000, 0x08000000, 0x04000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _RECURSIVE, _PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_DETACH = 2
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 1, 2
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Namespaces:
    """Moves this process, which must have one thread, into namespaces; a child carries on.

    Raises:
        OSError: this machine or container does not permit it.
    """

    def __init__(self, readable: list[str]) -> None:
        release = os.uname().release
        if tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < MIN_LINUX:
            raise OSError(f"Linux 5.14 or newer is needed for namespaces, this is {release}")
        self.uid = kernel.unused_uid()
        self.scratch_owner = INSIDE_UID if self.uid is None else self.uid
        flags = _NEW_MOUNT | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS
        if self.uid is None:
            _enter_user_namespace(flags)
        else:
            kernel.call("unshare", flags)
        if worker := os.fork():  # only a child is inside the new PID namespace
            os._exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) & 0xFF)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        _build_root(readable)
        self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        self.init = 0

    def fork(self) -> int:
        """os.fork, where the child is the first process of a new PID namespace."""
        kernel.call("unshare", _NEW_PID)
        self.init = os.fork()
        if self.init:
            kernel.call("setns", self.own_pid_namespace, _NEW_PID)
        return self.init

    def enter(self, scratch_mib: int) -> None:
        """In that child: a scratch folder, which becomes the working folder, and its own /proc."""
        kernel.call("unshare", _NEW_MOUNT)
        owner = f"uid={self.scratch_owner},gid={self.scratch_owner}"
        options = f"size={scratch_mib}m,nr_inodes={64 * scratch_mib},mode=700,{owner}"
        _mount("tmpfs", SCRATCH, "tmpfs", _NOSUID | _NODEV, options)
        _mount("proc", "/proc", "proc", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
        os.chdir(SCRATCH)

    def lock(self) -> None:
        """In the process that becomes the program: no way back, no powers."""
        kernel.give_up_powers(self.uid)
        seccomp.install(alone=False)

    def path_inside(self, path: str) -> str:
        """The name by which the program reaches a readable path: the same."""
        return path

    def max_tasks(self, limit: int) -> int:
        """RLIMIT_NPROC for `limit` tasks: the launcher, the worker and init count as well."""
        return limit + (3 if self.uid is None else 0)

    def resident_mib(self) -> int:
        """Memory of all the program's processes."""
        pages = 0
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) in (os.getpid(), self.init):
                continue
            try:
                pages += int((folder / "statm").read_text().split()[1])
            except OSError:  # it has ended
                continue
        return pages * _PAGE >> 20

    def clean(self) -> None:
        """Does nothing: the scratch folder ended with the namespace."""


def _enter_user_namespace(flags: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    kernel.call("unshare", _NEW_USER | flags)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{INSIDE_UID} {gid} 1")
    Path("/proc/self/uid_map").write_text(f"{INSIDE_UID} {uid} 1")


def _build_root(readable: list[str]) -> None:
    """A root folder in memory with `SYSTEM` and `readable` in it, all of it read-only."""
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    base = "/tmp"  # only a mount point: its files stay visible in /old
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    os.mkdir(f"{base}/old")
    kernel.pivot_root(base, f"{base}/old")
    os.chdir("/")
    bound: list[str] = []
    for path in sorted({*SYSTEM, *readable}):
        if os.path.islink(f"/old{path}"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink(f"/old{path}"), path)
        elif os.path.exists(f"/old{path}") and not any(path.startswith(f"{b}/") for b in bound):
            _bind(path)
            bound.append(path)
    for folder in ("/proc", SCRATCH):
        os.mkdir(folder)
    for link in ("/tmp", "/dev/shm"):
        if not os.path.exists(link):  # as it does with an interpreter under /tmp
            os.symlink(SCRATCH, link)
    _mount("proc", "/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    kernel.call("umount2", b"/old", _DETACH)
    os.rmdir("/old")
    attributes = struct.pack("QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    kernel.call(
        "syscall",
        *(kernel.MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, len(attributes)),
    )


def _bind(path: str) -> None:
    if os.path.isdir(f"/old{path}"):
        os.makedirs(path)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).touch()
    _mount(f"/old{path}", path, None, _BIND | _RECURSIVE)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [text.encode() if text is not None else None for text in (source, kind, options)]
    kernel.call("mount", texts[0], target.encode(), texts[1], flags, texts[2])
