"""Programs are contained: nothing outside is touched, limits hold, nobody passes without the right answer."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.errors import TaskError
from mohist.tasks.sandbox import jail, plain, seccomp
from mohist.tasks.sandbox.sandbox import Limits, Sandbox, function_names
from mohist.tasks.sandbox.tiers import SandboxName, open_sandbox
from tests.tasks.hostile import HOSTILE, TESTS

TIERS: tuple[SandboxName, ...] = ("monty", "bwrap")
TIGHT = Limits(cpu_s=1, wall_s=2.0, memory_bytes=256 << 20)
MARK = "mohist-hostile-"


def open_or_skip(name: SandboxName, limits: Limits) -> Sandbox:
    try:
        return open_sandbox(name, limits)
    except TaskError as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture(scope="module", params=TIERS)
def tight(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    sandbox = open_or_skip(request.param, TIGHT)
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module", params=[*TIERS, "auto"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    sandbox = open_or_skip(request.param, Limits())
    yield sandbox
    sandbox.close()


@dataclass(frozen=True)
class Victim:
    """What on the host the programs are after, and how to see whether they got at it."""

    secret: Path
    tcp: socket.socket
    udp: socket.socket
    process: subprocess.Popen[bytes]

    def fill_in(self, program: str) -> str:
        port = str(self.tcp.getsockname()[1])
        for word, meaning in (
            ("SECRET", str(self.secret)),
            ("PORT", port),
            ("HOST_PID", str(self.process.pid)),
            ("MARK", MARK),
        ):
            program = program.replace(word, meaning)
        return program

    def check(self) -> None:
        """Nothing was touched, nobody called, nobody was killed, nothing was left behind."""
        assert self.secret.read_text() == "secret"
        for server in (self.tcp, self.udp):
            with pytest.raises(BlockingIOError):
                server.accept() if server is self.tcp else server.recv(1)
        assert self.process.poll() is None
        folders = [*map(Path, ("/", "/tmp", "/dev/shm", "/var/tmp", "/opt")), Path.home(), Path.cwd()]
        folders += [self.secret.parent, Path(os.__file__).parent, Path(jail.__file__).parents[2]]
        assert [path for folder in folders for path in folder.glob(f"*{MARK}*")] == []
        assert MARK not in Path(jail.__file__).parents[2].joinpath("__init__.py").read_text()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    secret = tmp_path_factory.mktemp("victim") / "secret"
    secret.write_text("secret")
    os.environ["MOHIST_SECRET"] = "secret"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(tcp.getsockname())
        tcp.setblocking(False)
        udp.setblocking(False)
        yield Victim(secret, tcp, udp, process)
    process.kill()
    process.wait()
    del os.environ["MOHIST_SECRET"]


def jails() -> set[int]:
    """The ids of jailed processes that this process or nobody is the parent of."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = folder.joinpath("cmdline").read_bytes()
            parent = int(re.findall(r"PPid:\s*(\d+)", folder.joinpath("status").read_text())[0])
        except (OSError, IndexError):
            continue
        if b"mohist.tasks.sandbox" in command and parent in (0, 1, os.getpid()):
            found.add(int(folder.name))
    return found


def jails_left(within_s: float = 5.0) -> set[int]:
    """Those that stay. The kernel takes a killed jail apart in its own time, and other tests kill theirs."""
    left, deadline_s = jails(), time.monotonic() + within_s
    while left and time.monotonic() < deadline_s:
        time.sleep(0.02)
        left &= jails()
    return left


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(name: str, tight: Sandbox, victim: Victim) -> None:
    start = time.monotonic()
    outcome = tight.judge(victim.fill_in(HOSTILE[name]), TESTS)
    took_s = time.monotonic() - start
    assert outcome.kind in ("failed", "limit", "error"), outcome
    assert 0 < len(outcome.reason) < 1000
    assert took_s < TIGHT.wall_s + 2
    victim.check()
    assert jails_left() == set()


def test_there_are_many_hostile_programs() -> None:
    assert len(HOSTILE) >= 40


def test_the_attacks_are_attacks(victim: Victim) -> None:
    """Outside of a sandbox, some that do no harm there do come through."""
    for name in ("read a secret", "list tmp", "fork", "a shell", "a pair of sockets", "a file in memory"):
        program = victim.fill_in(HOSTILE[name]) + f"\n{TESTS}\nprint('through')"
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "through" in run.stdout, name


def test_the_tests_are_contained_too(tight: Sandbox, victim: Victim) -> None:
    attack = victim.fill_in(HOSTILE["read a secret"])
    assert tight.judge("def answer(): return 1", f"{attack}\nanswer()").kind == "error"
    assert tight.judge("def f(): return 1", "while f(): pass").kind == "limit"


PROGRAM = """
def add(a, b=1):
    return a + b

def fail(kind):
    if kind == "value":
        raise ValueError("no good")
    return {}[kind]

def echo(x):
    return x

import math

def root(x):
    return math.isqrt(x)
"""


@pytest.mark.parametrize(
    "tests",
    [
        "assert add(1, 2) == 3\nassert add(1) == 2\nassert add('a', b='b') == 'ab'",
        "def check(candidate):\n    for i in range(50):\n        assert candidate(i, i) == 2 * i\ncheck(add)",
        "for kind, expected in (('value', ValueError), ('x', KeyError)):\n"
        "    try:\n        fail(kind)\n    except expected:\n        pass\n    else:\n        assert False",
        "x = {'a': [1, (2.5, None)], 3: {4, 5}, 'b': b'6', 'c': True, 'n': -7}\nassert echo(x) == x\n"
        "assert type(echo((1, 2))) is tuple",
        "assert root(10**40) == 10**20",
        "import math\nassert math.isclose(echo(0.1) + echo(0.2), 0.3)",
        "assert echo(float('inf')) == float('inf') and echo('中文 \\U0001f600') == '中文 \\U0001f600'",
    ],
)
def test_right_programs_pass(tests: str, sandbox: Sandbox) -> None:
    outcome = sandbox.judge(PROGRAM, tests)
    assert (outcome.kind, outcome.reason) == ("passed", "")


@pytest.mark.parametrize(
    ("tests", "kind", "reason"),
    [
        ("assert add(1, 2) == 4", "failed", "test failed"),
        ("assert subtract(1, 2) == 4", "error", "subtract"),
        ("fail('value')", "error", "ValueError: no good"),
        ("add(1, 2, 3)", "error", "TypeError"),
    ],
)
def test_wrong_programs_fail_with_the_reason(tests: str, kind: str, reason: str, sandbox: Sandbox) -> None:
    outcome = sandbox.judge(PROGRAM, tests)
    assert outcome.kind == kind
    assert reason in outcome.reason


def test_what_monty_cannot_run_goes_to_cpython() -> None:
    sandbox = open_or_skip("auto", Limits())
    if "bwrap" not in sandbox.name:
        pytest.skip(f"NOT TESTED: {jail.no_jail()}")
    program = "import heapq\nclass A(dict): pass\ndef f(x):\n    return A(x=heapq.nsmallest(1, x))\n"
    assert sandbox.judge(program, "assert f([2, 1]) == {'x': [1]}").kind == "passed"
    assert sandbox.judge(program, "assert f([2, 1]) == {'x': [2]}").kind == "failed"
    sandbox.close()


def test_many_threads_may_judge_at_once(sandbox: Sandbox) -> None:
    def judge(i: int) -> str:
        return sandbox.judge(f"def f(): return {i}", f"assert f() == {i - i % 2}").kind

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge, range(16))) == ["passed", "failed"] * 8


def test_random_numbers_are_the_same_every_time_in_monty() -> None:
    sandbox = open_or_skip("monty", Limits())
    program = "import random\ndef f(): return random.random()"
    first = sandbox.judge(program, "assert f() == 2").reason
    assert re.search(r"assert 0\.\d+ == 2", first)
    assert sandbox.judge(program, "assert f() == 2").reason == first
    sandbox.close()


def test_without_a_sandbox_there_is_a_refusal_with_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydantic_monty", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TaskError, match=r"its package is missing.*bubblewrap is not installed"):
        open_sandbox("auto", Limits())
    with pytest.raises(TaskError, match="bubblewrap is not installed"):
        open_sandbox("bwrap", Limits())


def test_a_jail_that_does_not_contain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := jail.no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    monkeypatch.setattr(
        jail, "PROBE", jail.PROBE.replace("    except OSError", "    except ZeroDivisionError")
    )
    assert "Function not implemented" in str(jail.no_jail())
    monkeypatch.setattr(jail, "PROBE", jail.PROBE.replace("os.fork, ", "print, "))
    assert "bubblewrap does not work here" in str(jail.no_jail())


def test_the_end_of_the_host_is_the_end_of_the_jail() -> None:
    if reason := jail.no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    code = (
        "from mohist.tasks.sandbox.tiers import open_sandbox\n"
        "from mohist.tasks.sandbox.sandbox import Limits\n"
        "sandbox = open_sandbox('bwrap', Limits())\nprint('ready', flush=True)\n"
        "sandbox.judge('import time\\ntime.sleep(1000)', 'f()')"
    )
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert host.stdout is not None
    assert host.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    host.kill()
    host.wait()
    host.stdout.close()
    assert jails_left() == set()


def test_system_call_numbers_are_those_of_the_kernel() -> None:
    headers = (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm-generic/unistd.h"),
    )
    aliases = {"newfstatat": "3264_fstatat", "fstat": "3264_fstat", "lseek": "3264_lseek"}
    aliases |= {"mmap": "3264_mmap", "fcntl": "3264_fcntl"}
    for column, header in enumerate(headers):
        if not header.exists():
            pytest.skip(f"NOT TESTED: there is no {header}")
        numbers = dict(re.findall(r"#define __NR_?(\w+)\s+(\d+)", header.read_text()))
        for name, row in seccomp.CALLS.items():
            number = numbers.get(name, numbers.get(aliases.get(name, ""), row[column]))
            assert row[column] is None or int(number) == row[column], name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_lets_through_what_is_listed_and_nothing_else(machine: str) -> None:
    """Runs the BPF program on every number, by its definition."""
    column = ("x86_64", "aarch64").index(machine)
    architecture = (0xC000003E, 0xC00000B7)[column]
    steps = list(struct.iter_unpack("HBBI", seccomp.filter_program(machine)))

    def run(number: int, of: int, flags: int = 0) -> int:
        position, value = 0, 0
        while True:
            code, if_true, if_false, operand = steps[position]
            position += 1
            if code == 0x20:
                value = {0: number, 4: of, 24: flags * (number == 2), 32: flags * (number != 2)}[operand]
            elif code == 0x05:
                position += operand
            elif code in (0x15, 0x45):
                position += if_true if (value == operand if code == 0x15 else value & operand) else if_false
            else:
                return operand

    allowed = {row[column] for row in seccomp.CALLS.values()} - {None}
    for number in [*range(600), 0x40000000, 0x40000039, 2**32 - 1]:
        assert run(number, architecture) == (0x7FFF0000 if number in allowed else 0x00050026)
        assert run(number, 0x40000003) == 0x80000000  # the 32-bit table
    for number in (number for number in (seccomp.CALLS["open"][column], seccomp.CALLS["openat"][column])):
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR, os.O_TMPFILE):
            assert number is None or run(number, architecture, flags) == 0x0005001E
        assert number is None or run(number, architecture, os.O_CLOEXEC | os.O_DIRECTORY) == 0x7FFF0000


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    PLAIN
    | st.sets(st.integers() | st.text())
    | st.frozensets(st.integers())
    | st.complex_numbers(allow_nan=False)
)
def test_plain_data_comes_back(value: object) -> None:
    back = plain.decode(json.loads(json.dumps(plain.encode(value))))
    assert back == value
    assert type(back) is type(value)


def test_what_is_not_plain_is_refused() -> None:
    with pytest.raises(TypeError, match="Thread is not plain data"):
        plain.encode([threading.Thread()])
    for broken in ({"a": 1, "b": 2}, {"unknown": []}, {"bytes": "x"}, {"dict": [1]}, {}):
        with pytest.raises((ValueError, TypeError, LookupError)):
            plain.decode(broken)


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ("assert add(1) == len(str(2))", ["add"]),
        ("def check(candidate):\n    assert candidate(1)\ncheck(solve)", ["solve"]),
        ("import math as m, os.path\nfrom x import y\nassert f(m.pi, os, y)", ["f"]),
        ("for i in range(3):\n    x = [j for j in g(i)]\n    assert x", ["g"]),
        ("try:\n    f()\nexcept ValueError as error:\n    print(error)", ["f"]),
        ("with f() as a, g(): (lambda z: z)(a)", ["f", "g"]),
        (
            "match f():\n    case {'a': b, **rest}: print(b, rest)\n    case [c, *d] as e: print(c, d, e)",
            ["f"],
        ),
        ("class A:\n    x = f()\nA()", ["f"]),
        ("", []),
    ],
)
def test_the_functions_of_the_program_are_what_tests_do_not_define(tests: str, expected: list[str]) -> None:
    assert function_names(tests) == expected
