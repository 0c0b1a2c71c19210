"""Tiny models and servers, and databases: SQLite always, Postgres on a free port where it is installed."""

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
from mohist.serve.keys import Keys, read_pepper
from mohist.serve.settings import ServerConfig
from tests.cli.conftest import make_tiny_model, tiny_model
from tests.serve.live import Live, live

__all__ = ["tiny_model"]


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that answers differently."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "other", seed=6)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server of one model that asks for no keys, for the tests of a file."""
    with live(tmp_path_factory.mktemp("data"), {"tiny": tiny_model}) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Live]:
    """A server with the rules of one that others can reach, and two keys: `admin` and `user`."""
    data = tmp_path_factory.mktemp("data")
    database = Database.open(data / "mohist.db")
    Keys(database, read_pepper(data)).create("the first", role="admin")
    database.close()
    with live(data, {"tiny": tiny_model}, server=ServerConfig(host="0.0.0.0")) as running:
        yield running


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
