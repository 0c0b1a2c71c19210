from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from mohist.errors import ConfigError
from mohist.serve.database import MIGRATIONS, Database, metadata


def version(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(text("SELECT version FROM schema_version")).scalar_one()


def test_the_migrations_make_the_tables_that_the_queries_use(database: Database) -> None:
    with database.reading() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == {*metadata.tables, "schema_version"}
        for table in metadata.tables.values():
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert list(columns) == [column.name for column in table.columns]
            for column in table.columns:
                assert columns[column.name]["nullable"] == column.nullable, column
                made = columns[column.name]["type"].as_generic().__class__
                assert made in (column.type.__class__, column.type.as_generic().__class__), column
            assert {index["name"] for index in found.get_indexes(table.name)} >= {
                i.name for i in table.indexes
            }


def test_an_old_database_is_brought_up_to_date_and_keeps_what_it_holds(address: str) -> None:
    old = Database.open(address, migrations=MIGRATIONS[:1])
    with old.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO keys (id, name, role, salt, digest, created_ms, shares_cache)"
                " VALUES ('a', 'Ann', 'user', '00', '11', 5, :no)"
            ),
            {"no": False},
        )
    assert version(old) == 1
    old.close()
    new = Database.open(address)
    assert version(new) == len(MIGRATIONS)
    with new.reading() as connection:
        assert connection.execute(text("SELECT name FROM keys")).scalars().all() == ["Ann"]
        assert connection.execute(text("SELECT count(*) FROM usage")).scalar_one() == 0
    new.close()


def test_a_newer_database_is_left_alone(address: str) -> None:
    Database.open(address, migrations=(*MIGRATIONS, ("CREATE TABLE later (id BIGINT)",))).close()
    known = len(MIGRATIONS)
    with pytest.raises(
        ConfigError, match=f"has version {known + 1}, and this Mohist knows versions up to {known}"
    ):
        Database.open(address)


def test_a_failed_migration_changes_nothing(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used as a database"):
        Database.open(address, migrations=(*MIGRATIONS, ("CREATE TABLE more (id BIGINT)", "CREATE NONSENSE")))
    database = Database.open(address)
    with database.reading() as connection:
        assert not inspect(connection).has_table("more")
    assert version(database) == len(MIGRATIONS)
    database.close()


def test_many_may_open_a_new_database_at_once(address: str) -> None:
    failures: list[BaseException] = []

    def open_it() -> None:
        try:
            Database.open(address).close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    with database.writing() as writer:
        writer.execute(text("UPDATE schema_version SET version = 77"))
        assert version(database) == len(MIGRATIONS)


@pytest.mark.parametrize("where", ["mysql://me:hunter2@host/db", "://hunter2", "redis://h"])
def test_other_databases_are_refused_without_repeating_a_password(where: str) -> None:
    with pytest.raises(ConfigError, match="expected the path of a SQLite file, or postgresql://") as caught:
        Database.open(where)
    assert "hunter2" not in str(caught.value)


def test_a_postgres_that_is_not_there_is_an_error_without_the_password() -> None:
    pytest.importorskip("psycopg", reason="the Postgres driver is absent")
    with pytest.raises(ConfigError, match="cannot be used as a database") as caught:
        Database.open("postgresql://me:hunter2@127.0.0.1:1/db")
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but a text of more than one hundred bytes. " * 4)
    with pytest.raises(ConfigError, match=r"notes\.txt: cannot be used as a database"):
        Database.open(path)


def test_without_the_driver_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from mohist.serve.database import Database\n"
        "try:\n    Database.open('postgresql://h/d')\n"
        "except Exception as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mohist[postgres]'" in run.stdout
