"""A command line that runs Python inside bubblewrap (https://github.com/containers/bubblewrap).

In the jail there is Python itself, the system's libraries and this package, all read-only; nothing can be
written. It has its own empty network, process table, users, System V objects and host name, no capabilities
and no environment. What runs there then confines itself further (`mohist.tasks.sandbox.guest`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import mohist
from mohist.tasks.sandbox import seccomp

__all__ = ["jailed_python", "no_jail"]

PACKAGE = Path(mohist.__file__).parent
INSIDE = Path("/opt")
"""Where the package lies inside."""
PROBE_S = 30.0
"""Time for the probe to say that the jail works, in seconds."""


def jailed_python(code: str, *, packages: Sequence[Path] = (), scratch_bytes: int = 0) -> list[str]:
    """The command that runs `code` in a jail where `import mohist` works, and imports from `packages` too.

    With `scratch_bytes` there is a /tmp of that size, in memory, for what cannot be imported without one.
    """
    prefix = Path(sys.base_prefix).resolve()
    python = Path(sys.executable).resolve()
    paths = [str(INSIDE), *map(str, packages)]
    shown = dict.fromkeys([Path("/usr"), prefix, python.parent, *packages])
    return [
        *("bwrap", "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"),
        *("--hostname", "jail", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"),
        *(word for path in shown for word in ("--ro-bind", str(path), str(path))),
        *_system_libraries(),
        *("--ro-bind", str(PACKAGE), str(INSIDE / PACKAGE.name)),
        *("--dev-bind", "/dev/null", "/dev/null"),
        *(("--size", str(scratch_bytes), "--tmpfs", "/tmp") if scratch_bytes else ()),
        *("--remount-ro", "/", "--chdir", "/", "--"),
        *(str(python), "-I", "-S", "-B", "-c", f"import sys; sys.path += {paths!r}\n{code}"),
    ]


def _system_libraries() -> list[str]:
    """Mounts of the dynamic linker and of libraries outside /usr, as this system has them."""
    words = ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in map(Path, ("/lib", "/lib32", "/lib64")):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return words


PROBE = """
import os, socket
from mohist.tasks.sandbox.guest import confine
assert os.listdir("/dev") == ["null"]
confine(cpu_s=5, memory_bytes=1 << 30)
for attempt in (os.fork, socket.socket, lambda: open("/probe", "w"), lambda: os.kill(1, 0)):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("it does not contain")
print("contained")
"""


def no_jail() -> str | None:
    """Why there is no jail on this machine, found out by trying; None if it works."""
    if reason := seccomp.unsupported():
        return reason
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (apt install bubblewrap, dnf install bubblewrap)"
    try:
        run = subprocess.run(
            jailed_python(PROBE),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_S,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap could not be tried: {error}"
    if run.returncode != 0 or run.stdout != "contained\n":
        said = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        return f"bubblewrap does not work here: {said[-1]}"
    return None
