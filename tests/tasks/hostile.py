"""Programs that attack the sandbox, by name. Each defines `answer`, which attacks and returns "escaped" if
the attack came through, so that `assert answer() == "escaped"` passes exactly when containment failed.

SECRET stands for the path of a file on the host, PORT for a port there on which somebody listens, HOST_PID
for a process there, MARK for a part of the names of all files that the programs try to make.
"""

from __future__ import annotations

import textwrap

TESTS = 'assert answer() == "escaped"'

_SYSCALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def syscall(*arguments):
    return libc.syscall(*map(ctypes.c_long, arguments))
"""


def _attack(body: str, *, before: str = "") -> str:
    """A program whose `answer` does `body` and, if nothing was raised, claims to have escaped."""
    return before + "def answer():\n" + textwrap.indent(body.strip("\n"), "    ") + '\n    return "escaped"\n'


def _calls(*calls: str) -> str:
    """A program that has escaped if any of these raw system calls does not fail."""
    lines = "\n".join(f"    if syscall({call}) >= 0: return 'escaped'" for call in calls)
    return f"{_SYSCALL}def answer():\n{lines}\n    return 'contained'\n"


FILES = {
    "read a secret": _attack("open('SECRET').read()"),
    "read a secret through ..": _attack("open('/opt/mohist/../../usr/../SECRET').read()"),
    "read a secret with os": _attack("import os\nos.read(os.open('SECRET', os.O_RDONLY), 10)"),
    "read a secret with ctypes": _attack(
        "if libc.open(b'SECRET', 0) < 0: raise OSError", before="import ctypes\nlibc = ctypes.CDLL(None)\n"
    ),
    "read passwd": _attack("open('/etc/passwd').read()"),
    "read shadow": _attack("open('/etc/shadow').read()"),
    "list tmp": _attack("import os\nos.listdir('/tmp')"),
    "list var": _attack("import os\nos.listdir('/var')"),
    "list processes": _attack("import os\nos.listdir('/proc')"),
    "read the environment of process 1": _attack("open('/proc/1/environ').read()"),
    "go through the root of process 1": _attack("open('/proc/1/root/SECRET').read()"),
    "write own memory": _attack("open('/proc/self/mem', 'r+b').write(b'x')"),
    "write to the root": _attack("open('/MARK', 'w').write('x')"),
    "write to tmp": _attack("open('/tmp/MARK', 'w').write('x')"),
    "write to shared memory": _attack("open('/dev/shm/MARK', 'w').write('x')"),
    "write beside the secret": _attack("open('SECRET-MARK', 'w').write('x')"),
    "overwrite the secret": _attack("open('SECRET', 'w').write('x')"),
    "write into the library": _attack(
        "import os\nopen(os.path.join(os.path.dirname(os.__file__), 'MARK.py'), 'w')"
    ),
    "write into the grader": _attack("import mohist\nopen(mohist.__file__, 'a').write('# MARK')"),
    "delete the library": _attack("import os\nos.remove(os.__file__)"),
    "make a temporary file": _attack("import tempfile\ntempfile.NamedTemporaryFile(prefix='MARK')"),
    "make a folder": _attack("import os\nos.mkdir('/MARK')"),
    "make a symbolic link": _attack("import os\nos.symlink('SECRET', '/tmp/MARK')"),
    "make a hard link": _attack("import os\nos.link(os.__file__, '/MARK')"),
    "make a device": _attack("import os\nos.mknod('/MARK', 0o660 | 0o020000, os.makedev(1, 1))"),
    "make a pipe with a name": _attack("import os\nos.mkfifo('/MARK')"),
    "change permissions": _attack("import os\nos.chmod(os.__file__, 0o777)"),
    "a file in memory": _attack("import os\nos.write(os.memfd_create('MARK'), b'x')"),
    "fill the disk": _attack("for i in range(10**9):\n    open(f'/MARK{i}', 'w').write('x' * 10**6)"),
    "change the root": _attack("import os\nos.chroot('/opt')"),
}

NETWORK = {
    "connect by TCP": _attack("import socket\nsocket.create_connection(('127.0.0.1', PORT), 1)"),
    "send by UDP": _attack(
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"
    ),
    "listen": _attack("import socket\nsocket.create_server(('', 0))"),
    "a Unix socket": _attack("import socket\nsocket.socket(socket.AF_UNIX).connect('/run/systemd/private')"),
    "a pair of sockets": _attack("import socket\nsocket.socketpair()"),
    "a netlink socket": _attack("import socket\nsocket.socket(16, socket.SOCK_RAW, 0)"),
    "fetch a page": _attack(
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT', timeout=1)"
    ),
    "ask for a name": _attack("import socket\nsocket.gethostbyname('example.com')"),
}

PROCESSES = {
    "fork": _attack("import os\nos.fork()"),
    "fork bomb": _attack("import os\nwhile True:\n    os.fork()"),
    "fork twice and stay": _attack(
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)"
    ),
    "a shell": _attack("import os\nif os.system('true') != 0: raise OSError"),
    "a shell by subprocess": _attack("import subprocess\nsubprocess.run(['sh', '-c', 'true'])"),
    "a shell by popen": _attack("import os\nif os.popen('echo x').read() != 'x\\n': raise OSError"),
    "a shell by libc": _attack("import ctypes\nif ctypes.CDLL(None).system(b'true'): raise OSError"),
    "another program instead": _attack("import os\nos.execv('/usr/bin/env', ['env'])"),
    "spawn": _attack("import os\nos.posix_spawn('/usr/bin/env', ['env'], {})"),
    "a pool of processes": _attack("import multiprocessing\nmultiprocessing.Pool(2)"),
    "thread bomb": _attack(
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(1000,)).start()"
    ),
    "clone": _calls("56, 17, 0, 0, 0, 0", "220, 17, 0, 0, 0, 0", "435, 0, 88"),
}

SIGNALS = {
    "kill a process of the host": _attack("import os, signal\nos.kill(HOST_PID, signal.SIGKILL)"),
    "kill the parent": _attack("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)"),
    "kill everything": _attack("import os, signal\nos.kill(-1, signal.SIGKILL)"),
    "stop process 1": _attack("import os, signal\nos.kill(1, signal.SIGSTOP)"),
    "kill oneself": _attack("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nwhile True: pass"),
    "ignore the end of processor time": _attack(
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    ),
    "an alarm": _attack("import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass"),
    "be traced": _calls("101, 0, 0, 0, 0", "117, 0, 0, 0, 0"),
    "trace process 1": _calls("101, 16, 1, 0, 0", "101, 0x4206, 1, 0, 0", "117, 16, 1, 0, 0"),
    "read another process": _calls("310, 1, 0, 0, 0, 0, 0", "434, 1, 0", "312, 1, 1, 0, 0, 0"),
}

KERNEL = {
    "a new user namespace": _calls("272, 0x10000000", "97, 0x10000000"),
    "a new mount namespace": _calls("272, 0x00020000", "97, 0x00020000"),
    "enter a namespace": _calls("308, 0, 0", "268, 0, 0"),
    "mount": _calls("165, 0, 0, 0, 0, 0", "428, -100, 0, 0", "430, 0, 0", "442, 0, 0, 0, 0, 0"),
    "pivot the root": _calls("155, 0, 0"),
    "kernel keys": _calls("250, 0, -3, 1, 0, 0", "248, 0, 0, 0, 0, -3"),
    "BPF, perf events, user faults": _calls("321, 0, 0, 0", "298, 0, 0, -1, -1, 0", "323, 0"),
    "io_uring": _calls("425, 8, 0"),
    "System V shared memory": _calls("29, 0, 4096, 0o1600"),
    "calls with the numbers of x32": _calls("0x40000000 | 57", "0x40000000 | 41, 2, 1, 0"),
    "leave seccomp": _calls("157, 22, 0, 0, 0, 0", "317, 0, 0, 0", "317, 1, 0, 0"),
    "higher limits": _attack("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))"),
    "more open files": _attack("import os\nfor i in range(10**6):\n    os.dup(0)"),
    "become root": _attack("import os\nos.setuid(0)"),
    "calls of a 32-bit program": _attack(
        # mov eax, 20 (getpid in the 32-bit table; writev in the 64-bit one); int 0x80; ret
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "if ctypes.CFUNCTYPE(ctypes.c_int)(address)() <= 0: raise OSError"
    ),
}

RESOURCES = {
    "endless loop": _attack("while True: pass"),
    "endless loop that catches everything": _attack(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "a huge power": _attack("9 ** 9 ** 9"),
    "a catastrophic pattern": _attack("import re\nre.match('(a|a)*b' * 3, 'a' * 60)\nwhile True: pass"),
    "a list of 100 GB": _attack("[0] * (10**11 // 8)"),
    "a string that doubles": _attack("x = 'x'\nwhile True: x += x"),
    "a dict that grows": _attack("x = {}\nwhile True: x[len(x)] = [0] * 100"),
    "anonymous memory": _attack("import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 1 << 26))"),
    "endless recursion": _attack("def f(): return f()\nf()"),
    "recursion without a limit": _attack(
        "import sys\nsys.setrecursionlimit(2**31 - 1)\n"
        "class A:\n    def __repr__(self): return repr(self)\nrepr(A())"
    ),
    "nested data": _attack("import json\njson.loads('[' * 10**6)"),
    "sleep": _attack("import time\nwhile True: time.sleep(1000)"),
    "wait for input": _attack("import sys\nwhile True: sys.stdin.read()"),
    "wait for the host": _attack(
        "import os\nfor fd in range(3, 32):\n    try: os.read(fd, 10)\n    except OSError: pass"
    ),
    "a segmentation fault": _attack("import ctypes\nctypes.string_at(0)"),
    "abort": _attack("import os\nos.abort()"),
    "an error in the interpreter": _attack(
        "exec(compile('x', '', 'exec').replace(co_code=bytes([255] * 64)))"
    ),
}

OUTPUT = {
    "print without end": _attack("import sys\nwhile True: print('x' * 1000, file=sys.stderr) or print('x')"),
    "flood every descriptor": _attack(
        "import os\nwhile True:\n    for fd in range(32):\n        try: os.write(fd, b'x' * 65536 + b'\\n')\n"
        "        except OSError: pass"
    ),
    "a line without end": _attack(
        "import os\nwhile True:\n    for fd in range(32):\n        try: os.write(fd, b'x' * 65536)\n"
        "        except OSError: pass"
    ),
    "a huge result": "def answer():\n    return 'x' * (1 << 27)\n",
    "a huge number": "def answer():\n    return 10 ** 100000\n",
    "a result without bottom": "def answer():\n    x = []\n    x.append(x)\n    return x\n",
    "a result of many references": (
        "def answer():\n    x = []\n    for i in range(60): x = [x, x]\n    return x\n"
    ),
    "a deep result": "def answer():\n    x = []\n    for i in range(10**5): x = [x]\n    return x\n",
    "garbage instead of lines": _attack(
        "import os\nfor fd in range(32):\n    try: os.write(fd, b'\\xff\\x00[[[{\\n' * 100)\n"
        "    except OSError: pass"
    ),
    "a huge message of an error": "def answer():\n    raise ValueError('x' * 10**7)\n",
}

_PASSED = '{"kind": "passed", "reason": ""}'
FORGERIES = {
    "exit": "import sys\nsys.exit(0)\n",
    "exit in the function": "import sys\ndef answer():\n    sys.exit(0)\n",
    "exit at once": "import os\ndef answer():\n    os._exit(0)\n",
    "raise SystemExit": "def answer():\n    raise SystemExit(0)\n",
    "raise KeyboardInterrupt": "def answer():\n    raise KeyboardInterrupt\n",
    "raise StopIteration": "def answer():\n    raise StopIteration('escaped')\n",
    "raise BaseException": "class Passed(BaseException): pass\ndef answer():\n    raise Passed('escaped')\n",
    "an object that equals everything": (
        "class Any:\n    def __eq__(self, other): return True\ndef answer():\n    return Any()\n"
    ),
    "a string that equals everything": (
        "class Any(str):\n    def __eq__(self, other): return True\n    __hash__ = str.__hash__\n"
        "def answer():\n    return Any('x')\n"
    ),
    "a function as a result": "def answer():\n    return answer\n",
    "a generator as a result": "def answer():\n    yield 'escaped'\n",
    "a coroutine as a result": "async def answer():\n    return 'escaped'\n",
    "no assertions": "import builtins\nbuiltins.AssertionError = ValueError\ndef answer():\n    return 0\n",
    "a friendlier str": "import builtins\nbuiltins.str = lambda x: 'escaped'\ndef answer():\n    return 0\n",
    "the outcome on every descriptor": (
        f"import os\ndef answer():\n    for fd in range(32):\n        try: os.write(fd, b'{_PASSED}\\n')\n"
        "        except OSError: pass\n    return 0\n"
    ),
    "the outcome before the tests": (
        f"import os\nfor fd in range(32):\n    try: os.write(fd, b'{_PASSED}\\n' * 3)\n"
        "    except OSError: pass\ndef answer():\n    return 0\n"
    ),
    "the outcome through frames": (
        "import sys\ndef answer():\n    frame = sys._getframe()\n    while frame:\n"
        "        if 'host' in frame.f_locals: frame.f_locals['host'].write("
        f"{_PASSED})\n        frame = frame.f_back\n    return 0\n"
    ),
    "the outcome through the encoder": (
        "from mohist.tasks.sandbox import plain\nplain.encode = lambda value: {'kind': 'passed'}\n"
        "def answer():\n    return 0\n"
    ),
    "the outcome through json": (
        f"import json\njson.dumps = lambda value: '{_PASSED}'\ndef answer():\n    return 0\n"
    ),
    "the outcome at exit": (
        f"import atexit, os\natexit.register(lambda: os.write(4, b'{_PASSED}\\n'))\n"
        "def answer():\n    return 0\n"
    ),
    "an error that cannot be printed": (
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef answer():\n    raise E\n"
    ),
    "an error with a false name": (
        "E = type('AssertionError', (Exception,), {})\ndef answer():\n    raise E('escaped')\n"
    ),
    "no function": "x = 'escaped'\n",
    "no function but a value": "answer = 'escaped'\n",
    "no program": "",
    "no Python": "def answer(:\n",
    "null bytes": "def answer():\n    return 'escaped\0'\n",
}

IMPORTS = {
    "packages of the host": _attack("import torch"),
    "packages of the host, installed": _attack("import pip._internal, setuptools, numpy"),
    "the tests": _attack("import tests.tasks.hostile"),
    "secrets of the environment": (
        "import os\ndef answer():\n    return 'escaped' if os.environ.get('MOHIST_SECRET') else 'contained'\n"
    ),
    "a pickle that runs a command": _attack(
        "import pickle\nif pickle.loads(b'cos\\nsystem\\n(S\"true\"\\ntR.') != 0: raise OSError"
    ),
    "the subclasses of object": _attack(
        "import subprocess\nfor kind in object.__subclasses__():\n"
        "    if kind.__name__ == 'Popen': return kind(['true']) and 'escaped'\nraise OSError"
    ),
    "an import by another name": _attack("if __import__('o' + 's').system('true') != 0: raise OSError"),
    "code in a string": _attack("exec(\"import socket; socket.create_connection(('127.0.0.1', PORT), 1)\")"),
    "the debugger": _attack("breakpoint()\nraise OSError"),
}

HOSTILE = FILES | NETWORK | PROCESSES | SIGNALS | KERNEL | RESOURCES | OUTPUT | FORGERIES | IMPORTS
