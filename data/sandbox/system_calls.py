"""The system calls that programs are allowed: name, number on x86_64, number on aarch64.

They are those of Python, its standard library and the scientific packages. Numbers are from the
kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h);
"-" means that the machine has no such call. Left out on purpose: sockets; what uses up something
that the whole machine shares (AIO slots, inotify watches, keys, queues; sync); what looks into
other processes (ptrace, process_vm_readv, pidfds); what takes memory or disk that no limit counts
(memfd, io_uring, setxattr, fallocate past a file's end); what sets clocks, users, names or mounts.
"""

FILES = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
pwritev 296 70, preadv2 327 286, pwritev2 328 287, open 2 -, openat 257 56, creat 85 -, close 3 57,
close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, lseek 8 62,
sendfile 40 71, copy_file_range 326 285, ftruncate 77 46, fsync 74 82, fdatasync 75 83,
fadvise64 221 223, flock 73 32, getdents 78 -, getdents64 217 61, stat 4 -, fstat 5 80, lstat 6 -,
newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48,
faccessat2 439 439, readlink 89 -, readlinkat 267 78, getxattr 191 8, lgetxattr 192 9,
fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, getcwd 79 17, chdir 80 49,
fchdir 81 50, umask 95 166, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, link 86 -, linkat 265 37, symlink 88 -,
symlinkat 266 36, mknod 133 -, mknodat 259 33
"""
WAITING = """
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -,
eventfd2 290 19, pause 34 -, nanosleep 35 101, clock_nanosleep 230 115, alarm 37 -,
getitimer 36 102, setitimer 38 103, futex 202 98, sched_yield 24 124
"""
ITSELF = """
brk 12 214, munmap 11 215, mremap 25 216, mprotect 10 226, madvise 28 233, msync 26 227,
execve 59 221, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95, arch_prctl 158 -,
set_tid_address 218 96, set_robust_list 273 99, rseq 334 293, restart_syscall 219 128,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, getpid 39 172, getppid 110 173,
gettid 186 178, getpgrp 111 -, getpgid 121 155, getsid 124 156, getuid 102 174, geteuid 107 175,
getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158,
getrlimit 97 163, setrlimit 160 164, getrusage 98 165, getpriority 140 141, times 100 153,
sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, getcpu 309 168, uname 63 160,
sysinfo 99 179, getrandom 318 278, gettimeofday 96 169, time 201 -, clock_gettime 228 113,
clock_getres 229 114
"""
PAIR = """
sendto 44 206, recvfrom 45 207, shutdown 48 210, getsockname 51 204, getpeername 52 205,
getsockopt 55 209
"""
# Reach other processes, and files of the same user: only where namespaces keep both apart.
APART = """
fork 57 -, vfork 58 -, setsid 112 157, setpgid 109 154, truncate 76 45, chmod 90 -, fchmod 91 52,
fchmodat 268 53, fchmodat2 452 452, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88
"""
# Allowed with some arguments only, which `seccomp` knows.
CHECKED = """
mmap 9 222, clone 56 220, fcntl 72 25, ioctl 16 29, prctl 157 167, prlimit64 302 261,
socketpair 53 199
"""
SIGNALS = "kill 62 129, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240"


def numbers(table: str, machine: str) -> dict[str, int]:
    """Number of each call of `table` that `machine` (x86_64 or aarch64) has, by name."""
    column = {"x86_64": 1, "aarch64": 2}[machine]
    calls = [entry.split() for entry in table.split(",")]
    return {call[0]: int(call[column]) for call in calls if call[column] != "-"}
