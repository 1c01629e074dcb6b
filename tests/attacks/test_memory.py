"""Statements that want more memory than there is, alone and ten at a time."""

import threading
import time

import pytest

from wire import outcome

SERIES = "generate_series(1, 100000)"


def nested(expression, innermost, levels):
    """A query over a query, and so on, each with an expression over the column `s` of the one inside."""
    query = innermost
    for _ in range(levels):
        query = f"SELECT {expression} AS s FROM ({query}) q"
    return query


STATEMENTS = {
    "repeat": "SELECT repeat('x', 1000000000)",
    "repeated rows": f"SELECT repeat('x', 1000000) FROM {SERIES}",
    "padding": "SELECT lpad('x', 2147483647, 'y')",
    "range": "SELECT range(1, 1000000000000)",
    "list constants": "SELECT array_has_all(range(1, 3000000), range(2, 3000000))",
    "lists": f"SELECT array_agg(repeat('x', 10000)) FROM {SERIES}",
    "texts": f"SELECT string_agg(repeat('x', 10000), ',') FROM {SERIES}",
    "cross join sort": "SELECT a.s FROM t a CROSS JOIN t b ORDER BY a.s || b.s",
    "distinct": "SELECT " + ", ".join(f"count(DISTINCT a.id * {n} + b.id)" for n in range(1, 11))
                + " FROM t a JOIN t b ON a.a = b.a",
    "median": "SELECT median(a.id * b.id) FROM t a CROSS JOIN t b",
    "approximate": "SELECT approx_distinct(a.s || b.id), approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY a.id) "
                   "FROM t a CROSS JOIN t b GROUP BY a.id",
    "cube": "SELECT corr(a.id, b.id) FROM t a CROSS JOIN t b GROUP BY CUBE (a.id, b.id, a.s)",
    "windows": "SELECT sum(length(x)) FROM (SELECT array_agg(a.id) OVER (ORDER BY a.id) x FROM t a) q",
    "recursion": "WITH RECURSIVE r AS (SELECT 1 AS n, 'x' AS s UNION ALL SELECT n + 1, s || s FROM r) SELECT max(n) FROM r",
    "hash join": "SELECT count(*) FROM t a JOIN t b ON a.s = b.s JOIN t c ON b.s = c.s",
    "encode": f"SELECT encode(repeat('x', 100000000), 'hex') FROM {SERIES}",
    "long list": "SELECT count(*) FROM t WHERE id IN (" + ", ".join(map(str, range(1_000_000))) + ")",
    "many rows": "SELECT count(*) FROM (VALUES " + ", ".join(f"({n})" for n in range(500_000)) + ") v(n)",
    "unnested constants": "SELECT count(*) FROM (SELECT unnest(range(0, 3000000)) u FROM t) x WHERE u = 5",
    "unnested lists": "SELECT count(*) FROM (SELECT unnest([range(0, 1000000)]) u FROM t) x WHERE u[1] = 5",
    "lateral chain": "SELECT count(*) FROM (SELECT 1 AS a0) q0"
                     + "".join(f", LATERAL (SELECT max(id) + a{n} AS a{n + 1} FROM t) q{n + 1}" for n in range(20)),
    "split": "SELECT unnest(string_to_array(repeat('a,', 10000000), ',')) ORDER BY 1",
    "padding with null": "SELECT rpad('a', i, NULL) FROM (VALUES (9223372036854775807)) v(i)",
    "padding of null": "SELECT lpad(s, i, 'x') FROM (VALUES (9000000000000000000, NULL::VARCHAR)) v(i, s)",
    "repeated null": "SELECT array_repeat(s, i) FROM (VALUES (1000000000, NULL::VARCHAR)) v(i, s)",
    "resized with null": "SELECT array_resize(l, i, f) FROM (VALUES (1000000000, [1], NULL::BIGINT)) v(i, l, f)",
    "wide list": "SELECT arrow_cast(NULL, 'FixedSizeList(1000000000, Float32)')",
    "wide binary": "SELECT arrow_cast(NULL, 'FixedSizeBinary(2147483647)') FROM generate_series(1, 1000)",
    "doubling types": nested("named_struct('a', s, 'b', s)", "SELECT value AS s FROM generate_series(1, 10)", 20)
                      + " WHERE s IS NOT NULL",
    "doubling lists": nested("[s, s]", "SELECT value AS s FROM generate_series(1, 10000)", 14),
    "nested encodings": "SELECT max(length(s)) FROM (" + nested("encode(s, 'hex')", "SELECT repeat('x', 2000) "
                        f"|| value AS s FROM {SERIES}", 5) + ") r",
    "keys of a cube": "EXPLAIN SELECT count(*) FROM (VALUES (1)) v(a) GROUP BY CUBE ("
                      + ", ".join(f"a + {n}" for n in range(30)) + ")",
    "separators": "SELECT concat_ws(repeat('x', 10000000), " + ", ".join(["'a'"] * 1000) + ")",
    "constant texts": "SELECT concat(" + ", ".join(["repeat('x', 20000000)"] * 400) + ")",
    "defaults": "CREATE TABLE defaults (" + "".join(f"c{n} VARCHAR DEFAULT repeat('x', 20000000), " for n in range(100))
                + "a INT)",
    "regular expression": f"SELECT regexp_replace(repeat('a', 1000000), 'a', repeat('b', 1000), 'g') FROM {SERIES}",
}


def each(form, count):
    return ", ".join(form.format(n=n) for n in range(count))


# Over rows of 100 KB.
WIDE = {
    "join": "SELECT sum(length(a.s || b.s)) FROM wide_rows a JOIN wide_rows b ON a.k = b.k",
    "rows of a join": "SELECT a.s, b.s FROM wide_rows a JOIN wide_rows b ON a.k = b.k",
    "sort": "SELECT s FROM wide_rows ORDER BY s DESC",
    "sorted join": "SELECT a.s, b.s FROM wide_rows a JOIN wide_rows b ON a.k = b.k ORDER BY a.s, b.id",
    "window": "SELECT s, lag(s) OVER (PARTITION BY k ORDER BY s) FROM wide_rows",
    "groups": "SELECT s, count(*), min(s), max(s) FROM wide_rows GROUP BY s",
    "nested loops": "SELECT count(*) FROM wide_rows a JOIN wide_rows b ON a.s > b.s",
    "union": "SELECT count(*) FROM (SELECT s FROM wide_rows UNION SELECT s || 'x' FROM wide_rows) x",
    "distinct": "SELECT count(*) FROM (SELECT DISTINCT s || k AS s FROM wide_rows) x",
    "outer join": "SELECT max(a.s), max(b.s) FROM wide_rows a FULL JOIN wide_rows b ON a.k = b.k AND a.s > b.s",
}
# Many results of one batch of these rows, each of which is small.
WIDE_LISTS = {
    "many texts": f"SELECT {each('s || {n}', 300)} FROM wide_rows",
    "many groups": f"SELECT count(*) FROM wide_rows GROUP BY {each('s || {n}', 300)}",
    "many extremes": f"SELECT {each('max(s || {n})', 300)} FROM wide_rows",
    "many lists": f"SELECT {each('array_agg(s || {n})', 300)} FROM wide_rows",
    "one of many texts": f"SELECT greatest({each('s || {n}', 1000)}) FROM wide_rows LIMIT 1",
    "one of many items": f"SELECT length(array_to_string(array_concat({each('string_to_array(s, chr(97 + {n} % 6))', 200)}), "
                         "'')) FROM wide_rows",
    "wide structs": "SELECT named_struct(" + each("'f{n}', s", 1000) + ") FROM wide_rows",
    "one text of many": f"SELECT length(concat({each('s', 1000)})) FROM wide_rows",
}
FINE = ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "CANCELLED", "DEADLINE_EXCEEDED", "UNIMPLEMENTED")


@pytest.mark.parametrize("name", STATEMENTS)
def test_one(node, name):
    code, message = outcome(lambda: node.client().query(STATEMENTS[name], timeout=30))
    print(code, message[:200])
    assert code in FINE, message


@pytest.fixture(scope="module")
def wide(running_node):
    client = running_node.client()
    client.update("CREATE TABLE wide_rows (id BIGINT, k BIGINT, s VARCHAR)")
    row = "SELECT value, value % 30, repeat(md5(value::VARCHAR), 3125) FROM generate_series({}, {})"
    for first in range(0, 3000, 200):
        client.update("INSERT INTO wide_rows " + row.format(first, first + 199), 60)


@pytest.mark.parametrize("name", STATEMENTS)
def test_ten_at_a_time(node, name):
    attack_by_ten(node, STATEMENTS[name])


@pytest.mark.parametrize("name", WIDE)
def test_ten_over_wide_rows(node, wide, name):
    attack_by_ten(node, WIDE[name])


SEARCHES = {
    "queries": "SELECT * FROM vector_search(documents, v, queries => (SELECT v FROM documents), k => 1000)",
    "large vectors": "SELECT * FROM vector_search(documents, v, array_repeat(0.5, 65536), k => 10000)",
    "texts": "SELECT * FROM text_search(documents, 'wing', 10000, highlight => 'body', highlight_length => 100000)",
    "tokens": "SELECT count(*) FROM text_search(documents, 'wing', 10000, columns => 'body', tokenizer => 'ngram(1,8)')",
    "similar terms": "SELECT count(*) FROM text_search(documents, '"
                     + " ".join(f"{word:032x}~2" for word in range(300)) + "', 10000)",
}


@pytest.fixture(scope="module")
def documents(running_node):
    client = running_node.client()
    client.update("CREATE TABLE documents (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(65536))")
    row = "SELECT value, repeat(md5(value::VARCHAR) || ' wing ', 5000), array_repeat(sin(value + 1), 65536) "
    for first in range(0, 100, 10):
        client.update(f"INSERT INTO documents {row} FROM generate_series({first}, {first + 9})", 60)


@pytest.mark.parametrize("name", SEARCHES)
def test_ten_searches(node, documents, name):
    attack_by_ten(node, SEARCHES[name])


def attack_by_ten(node, statement):
    codes = []

    def attack():
        codes.append(outcome(lambda: node.client().query(statement, timeout=20)))

    threads = [threading.Thread(target=attack) for _ in range(10)]
    for thread in threads:
        thread.start()
    client, slowest, most = node.client(), 0.0, 0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        client.query("SELECT 1", timeout=20)
        slowest = max(slowest, time.monotonic() - began)
        most = max(most, node.resident_mib())
        time.sleep(0.02)
    print(f"SELECT 1 at most {slowest * 1000:.0f} ms, {most} MiB resident, {sorted({code for code, _ in codes})}")
    assert all(code in FINE for code, _ in codes), codes


def test_results_that_nobody_reads(node):
    client = node.client()
    client.update("CREATE TABLE IF NOT EXISTS wide AS SELECT repeat('y', 1000) AS s FROM generate_series(1, 100000)", 60)
    calls = []
    for _ in range(60):
        reader = node.client()
        ticket = reader.ticket("SELECT repeat(s, 10) FROM wide")
        calls.append(reader.channel.unary_stream("/arrow.flight.protocol.FlightService/DoGet")(ticket, timeout=60))
    time.sleep(8)
    print(f"{node.resident_mib()} MiB resident")
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("name", WIDE_LISTS)
def test_ten_of_wide_lists(node, wide, name):
    attack_by_ten(node, WIDE_LISTS[name])
