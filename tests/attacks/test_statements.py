"""Statements that are deep, wide, or take for ever."""

import threading
import time

import pytest

from wire import outcome

REFUSED = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")

CHAINS = {
    "parentheses": lambda n: "SELECT " + "(" * n + "1" + ")" * n,
    "additions": lambda n: "SELECT 1" + "+1" * n,
    "alternatives": lambda n: "SELECT count(*) FROM t WHERE a = 1" + " OR a = 2" * n,
    "concatenations": lambda n: "SELECT 'a'" + "||'b'" * n,
    "negations": lambda n: "SELECT " + "NOT " * n + "true",
    "signs": lambda n: "SELECT " + "- " * n + "1",
    "casts": lambda n: "SELECT 1" + "::int" * n,
    "unions": lambda n: "SELECT 1" + " UNION ALL SELECT 1" * n,
    "explanations": lambda n: "EXPLAIN " * n + "SELECT 1",
    "joins": lambda n: "SELECT 1 FROM t" + "".join(f" JOIN t t{i} ON t{i}.id = t.id" for i in range(n)),
    "common tables": lambda n: "WITH " + ", ".join(f"c{i} AS (SELECT 1)" for i in range(n)) + " SELECT 1",
    "subqueries": lambda n: "SELECT * FROM " + "(SELECT * FROM " * n + "t" + ") x" * n,
    "lists": lambda n: "SELECT " + "[" * n + "1" + "]" * n,
    "types": lambda n: "SELECT CAST(NULL AS " + "INT" + "[]" * n + ")",
    "cases": lambda n: "SELECT " + "CASE WHEN true THEN " * n + "1" + " END" * n,
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("length", [1_000, 10_000, 100_000])
def test_chains(node, chain, length):
    sql = CHAINS[chain](length)
    code, message = outcome(lambda: node.client().query(sql, timeout=60))
    assert code == "OK" or code in REFUSED, (code, message)


@pytest.mark.parametrize("sql", [
    "WITH c0 AS (SELECT 1 AS a), " + ", ".join(
        f"c{i} AS (SELECT x.a FROM c{i-1} x JOIN c{i-1} y ON true)" for i in range(1, 30)) + " SELECT * FROM c29",
    "SELECT " + ", ".join(f"a + {i} AS c{i}" for i in range(100_000)) + " FROM t",
    "SELECT * FROM t " + " ".join(f"CROSS JOIN t t{i}" for i in range(100)),
])
def test_statements_that_grow(node, sql):
    began = time.monotonic()
    code, message = outcome(lambda: node.client().query(sql, timeout=90))
    assert code in (*REFUSED, "CANCELLED"), (code, message)
    assert time.monotonic() - began < 60


def test_clients_that_leave_are_not_worked_for(node):
    join = "SELECT count(*) FROM generate_series(1, 3000000) x JOIN generate_series(1, 3000000) y ON x.value * y.value = -1"
    for _ in range(4):
        assert outcome(lambda: node.client().query(join, timeout=1))[0] == "DEADLINE_EXCEEDED"
    running = "SELECT 1 FROM plexus.queries WHERE statement LIKE '%-1' AND statement NOT LIKE '%queries%'"
    empty = node.client().query("SELECT 1 WHERE false")
    began = time.monotonic()
    while node.client().query(running) > empty:
        assert time.monotonic() - began < 5
        time.sleep(0.05)


def test_short_statements_beside_endless_ones(node):
    endless = "SELECT count(*) FROM generate_series(1, 3000000) x JOIN generate_series(1, 3000000) y ON x.value * y.value = -1"
    threads = [
        threading.Thread(target=outcome, args=(lambda: node.client().query(endless, timeout=8),)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    client, slowest = node.client(), 0.0
    for _ in range(50):
        began = time.monotonic()
        client.query("SELECT 1")
        slowest = max(slowest, time.monotonic() - began)
    for thread in threads:
        thread.join()
    print(f"SELECT 1 took {slowest * 1000:.0f} ms at most")
