"""The statements of dml.rs in DuckDB, in process and on disk.

Arguments: rows of the table, rows to upsert. Prints the seconds of each statement as a JSON object.
"""

import json
import os
import sys
import tempfile
import time

import duckdb

rows, upserts = int(sys.argv[1]), int(sys.argv[2])
COLUMNS = "i AS id, (i * 7919) % 1000003 AS a, i * 0.5 AS b, concat('row ', (i * 31) % 5000) AS s"
SCAN = "SELECT sum(a), sum(b), max(s), count(*) FROM big"

with tempfile.TemporaryDirectory() as directory:
    connection = duckdb.connect(os.path.join(directory, "bench.duckdb"))
    connection.execute("SET enable_progress_bar = false")

    def seconds(sql):
        started = time.perf_counter()
        connection.execute(sql).fetchall()
        return time.perf_counter() - started

    connection.execute("CREATE TABLE big (id BIGINT PRIMARY KEY, a BIGINT, b DOUBLE, s VARCHAR)")
    measured = {"insert": seconds(f"INSERT INTO big SELECT {COLUMNS} FROM range(1, {rows} + 1) t(i)")}
    connection.execute("CHECKPOINT")
    measured["upsert"] = seconds(
        "INSERT OR REPLACE INTO big SELECT k, -k, k, concat('new ', k % 5000) "
        f"FROM (SELECT (i * 7368787) % {rows} + 1 AS k FROM range(0, {upserts}) t(i))"
    )
    measured["delete"] = seconds("DELETE FROM big WHERE id % 100 = 7")
    connection.execute("DELETE FROM big WHERE id % 100 IN (13, 23, 33, 43, 53, 63, 73, 83)")
    measured["scan"] = min(seconds(SCAN) for _ in range(7))
    connection.close()
print(json.dumps(measured))
