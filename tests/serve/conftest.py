"""Databases to test with: SQLite always, Postgres from Debian's package on a free port where it is there."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from itertools import count
from pathlib import Path

import pytest

from mohist.serve.database import Database


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def postgres_programs() -> Path:
    """The folder of initdb and postgres; skips where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    if program is None:
        pytest.skip(
            "Postgres is absent: no initdb in /usr/lib/postgresql/*/bin or PATH (apt install postgresql)"
        )
    return Path(program).resolve().parent


@pytest.fixture(scope="session")
def postgres_server() -> Generator[str]:
    """The URL, less the database's name, of a server with a temporary data folder."""
    pytest.importorskip("psycopg", reason="the Postgres driver is absent (pip install 'mohist[postgres]')")
    programs = postgres_programs()
    folder = Path(tempfile.mkdtemp(prefix="mohist-postgres-"))
    user = None
    if os.getuid() == 0:  # initdb refuses root
        user = next((one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody")), None)
        if user is None:
            pytest.skip("Postgres refuses to run as root, and there is no user postgres or nobody")
        shutil.chown(folder, user)
    port = free_port()
    make = [programs / "initdb", "-D", folder, "-U", "mohist", "-A", "trust", "-E", "UTF8", "-N"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", user=user)
    serve = [programs / "postgres", "-D", folder, "-p", str(port), "-k", "", "-F", "-h", "127.0.0.1"]
    server = subprocess.Popen(serve, stderr=subprocess.DEVNULL, cwd="/", user=user)
    try:
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        for _ in range(100):
            if subprocess.run(ready, check=False).returncode == 0:
                break
            assert server.poll() is None, "postgres ended at once"
            time.sleep(0.1)
        yield f"postgresql://mohist@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def new_postgres(postgres_server: str) -> Callable[[], str]:
    """Makes an empty Postgres database; its URL."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    numbers = count()

    def make() -> str:
        name = f"test_{os.urandom(6).hex()}_{next(numbers)}"
        with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        return f"{postgres_server}/{name}"

    return make


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where an empty database is, of each kind in turn."""
    if request.param == "sqlite":
        return str(tmp_path / "data" / "mohist.db")
    return request.getfixturevalue("new_postgres")()


@pytest.fixture
def database(address: str) -> Generator[Database]:
    opened = Database.open(address)
    yield opened
    opened.close()
