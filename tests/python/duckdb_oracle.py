"""Plexus and DuckDB over the same tables: loads them, and compares the rows of queries."""

import pathlib
import sys

import adbc_driver_flightsql.dbapi as dbapi

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "fuzz"))

from differential import normal, same_value, sort_key

# Scans of this many bytes get a task of their own, so that every query runs on all nodes.
SPREAD = "SET plexus.task_bytes = 1"


def connect(uri):
    return dbapi.connect(uri, db_kwargs={"username": "oracle", "password": ""}, autocommit=True)


def load(connection, duck, tables, shards=6):
    """Copies tables of DuckDB into Plexus, and moves their rows into files."""
    with connection.cursor() as cursor:
        for table in tables:
            reader = duck.execute(f"SELECT * FROM {table}").fetch_record_batch(16_384)
            rows = cursor.adbc_ingest(table, reader, mode="create")
            assert rows == duck.execute(f"SELECT count(*) FROM {table}").fetchone()[0], table
            cursor.execute(f"OPTIMIZE {table}")
            cursor.fetchall()


def rows_of(connection, sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def difference(ours, theirs):
    """What differs between two lists of rows in any order; `None` if nothing does."""
    if len(ours) != len(theirs):
        return f"{len(ours)} rows instead of {len(theirs)}"
    ours, theirs = (sorted((tuple(map(normal, row)) for row in rows), key=sort_key) for rows in (ours, theirs))
    for a, b in zip(ours, theirs):
        if len(a) != len(b) or not all(map(same_value, a, b)):
            return f"{a} instead of {b}"
    return None
