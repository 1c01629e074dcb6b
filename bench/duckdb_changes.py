"""The operations of changes.rs in DuckDB, in process and on disk. Arguments: rows, upserts. Prints seconds as JSON."""

import json
import os
import sys
import tempfile
import time

import duckdb

rows, upserts = int(sys.argv[1]), int(sys.argv[2])
directory = tempfile.mkdtemp()
connection = duckdb.connect(os.path.join(directory, "bench.duckdb"))
connection.execute("SET enable_progress_bar = false")
columns = (
    "i AS id, (i * 7919) % 1000003 AS a, i * 0.5 AS b, concat('row ', (i * 31) % 5000) AS s"
)
scan = "SELECT sum(a), sum(b), max(s), count(*) FROM big"


def seconds(sql):
    started = time.perf_counter()
    connection.execute(sql).fetchall()
    return time.perf_counter() - started


connection.execute("CREATE TABLE big (id BIGINT PRIMARY KEY, a BIGINT, b DOUBLE, s VARCHAR)")
found = {"insert": seconds(f"INSERT INTO big SELECT {columns} FROM range(1, {rows} + 1) t(i)")}
connection.execute("CHECKPOINT")
found["upsert"] = seconds(
    "INSERT OR REPLACE INTO big SELECT k, -k, k, concat('new ', k % 5000) "
    f"FROM (SELECT (i * 7368787) % {rows} + 1 AS k FROM range(0, {upserts}) t(i))"
)
found["delete"] = seconds("DELETE FROM big WHERE id % 100 = 7")
connection.execute("DELETE FROM big WHERE id % 100 IN (13, 23, 33, 43, 53, 63, 73, 83)")
found["scan"] = min(seconds(scan) for _ in range(7))
print(json.dumps(found))
connection.close()
for name in os.listdir(directory):
    os.remove(os.path.join(directory, name))
os.rmdir(directory)
