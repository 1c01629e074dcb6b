"""The 99 queries of TPC-DS give what DuckDB gives, on one node and spread over three."""

import os

import duckdb
import pytest

from duckdb_oracle import SPREAD, connect, difference, load, rows_of

SCALE = float(os.environ.get("PLEXUS_TPCDS_SCALE", "0.1"))


@pytest.fixture(scope="module")
def duck():
    connection = duckdb.connect()
    connection.execute("LOAD tpcds")
    connection.execute(f"CALL dsdgen(sf = {SCALE})")
    return connection


@pytest.fixture(scope="module")
def plexus(empty_uri, duck):
    connection = connect(empty_uri)
    tables = [name for (name,) in duck.execute("SHOW TABLES").fetchall()]
    assert len(tables) == 24
    load(connection, duck, tables)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def answers(duck):
    queries = duck.execute("SELECT query_nr, query FROM tpcds_queries() ORDER BY query_nr").fetchall()
    assert len(queries) == 99
    return [(number, sql, duck.execute(sql).fetchall()) for number, sql in queries]


@pytest.mark.parametrize("setting", ["RESET plexus.task_bytes", SPREAD])
def test_queries_give_what_duckdb_gives(plexus, answers, setting):
    rows_of(plexus, setting)
    failures = []
    for number, sql, expected in answers:
        try:
            found = difference(rows_of(plexus, sql), expected)
        except Exception as error:  # A query that fails says so; the others still run.
            found = str(error)
        if found:
            failures.append(f"query {number}: {found}")
    rows_of(plexus, "RESET plexus.task_bytes")
    assert not failures, "\n".join(failures)
