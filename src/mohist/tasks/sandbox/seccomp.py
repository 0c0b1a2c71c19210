"""The Linux system calls that a confined process may still make. Standard library only.

A filter of the kernel's (seccomp with classic BPF, see `man 2 seccomp`) lets the calls in CALLS through, and
every other one fails with ENOSYS, as if the kernel had never heard of it. What is left can compute, open
files for reading, read and write descriptors that are open, sleep, and end. Nothing on a disk changes. There
is no new process or thread, no socket, no signal to anyone, no tracing, no mount, no namespace, no change of
its own limits or signal handlers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

__all__ = ["CALLS", "filter_program", "forbid_the_rest", "unsupported"]

CALLS: dict[str, tuple[int, int | None]] = {
    # name: (number on x86-64, number on 64-bit Arm), from the kernel's unistd.h; None: Arm never had it.
    "read": (0, 63),
    "readv": (19, 65),
    "pread64": (17, 67),
    "write": (1, 64),
    "writev": (20, 66),
    "pwrite64": (18, 68),
    "close": (3, 57),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "stat": (4, None),
    "lstat": (6, None),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "open": (2, None),
    "openat": (257, 56),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fcntl": (72, 25),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getrandom": (318, 278),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getrusage": (98, 165),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "uname": (63, 160),
    "sysinfo": (99, 179),
}

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine -> column of CALLS, and the kernel's AUDIT_ARCH number."""

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _RETURN, _JUMP = 0x20, 0x06, 0x05  # BPF_LD | BPF_W | BPF_ABS, BPF_RET | BPF_K, BPF_JMP | BPF_JA
_JUMP_IF_EQUAL, _JUMP_IF_BITS = 0x15, 0x45  # BPF_JMP | BPF_JEQ | BPF_K, BPF_JMP | BPF_JSET | BPF_K
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 24, 32  # offsets in struct seccomp_data
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000  # SECCOMP_RET_*; _FAIL | errno
_TO_WRITE = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | 0o20000000  # with __O_TMPFILE: flags of no mere reader


def unsupported() -> str | None:
    """Why this machine cannot be confined; None if it can."""
    if platform.system() != "Linux":
        return f"seccomp is part of Linux, and this is {platform.system()}"
    if platform.machine() not in _ARCHITECTURES:
        return f"there is no list of system calls for {platform.machine()}"
    return None


def filter_program(machine: str) -> bytes:
    """The BPF instructions: `struct sock_filter` {u16 code; u8 if_true; u8 if_false; u32 value} each.

    Calls of another architecture than the process's own, whose numbers mean other calls, kill the process.
    On x86-64 the numbers of the x32 interface have bit 30 set, so they equal none in the list.
    """
    column, architecture = _ARCHITECTURES[machine]
    numbers = {name: number for name, row in CALLS.items() if (number := row[column]) is not None}
    end = [
        (_RETURN, 0, 0, _FAIL | errno.ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),  # of open(path, flags)
        (_JUMP, 0, 0, 1),
        (_LOAD, 0, 0, _THIRD_ARGUMENT),  # of openat(folder, path, flags)
        (_JUMP_IF_BITS, 1, 0, _TO_WRITE),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EROFS),
    ]
    places = {"open": 2, "openat": 4}  # in `end`; the others go to 1
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        # A match jumps over the comparisons after it, to its place in the end.
        *(
            (_JUMP_IF_EQUAL, len(numbers) - 1 - i + places.get(name, 1), 0, number)
            for i, (name, number) in enumerate(numbers.items())
        ),
        *end,
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def forbid_the_rest() -> None:
    """Confine this thread, and what it starts, for good. OSError if the kernel refuses."""
    program = filter_program(platform.machine())

    class FilterProgram(ctypes.Structure):
        """`struct sock_fprog`."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    code = FilterProgram(len(program) // 8, program)
    calls = (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(code), 0, 0),
    )
    for arguments in calls:
        if libc.prctl(*arguments) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"seccomp: {os.strerror(error)}")
