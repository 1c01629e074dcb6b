"""Subqueries that refer to the query around them, in every place and shape, against DuckDB."""

import random

import duckdb
import pytest

from duckdb_oracle import SPREAD, connect, difference, rows_of

QUERIES = """
SELECT id, (SELECT count(*) FROM b WHERE b.x >= a.x) FROM a;
SELECT id, (SELECT max(x) FROM b WHERE b.x < a.x) FROM a;
SELECT id, (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.x NULLS LAST, b.id LIMIT 1) FROM a;
SELECT id, (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.x NULLS LAST, b.id LIMIT 1 OFFSET 1) FROM a;
SELECT id FROM a WHERE x > (SELECT avg(b.x) FROM b WHERE b.id <> a.id);
SELECT id FROM a WHERE x IN (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.id LIMIT 2);
SELECT id FROM a WHERE x NOT IN (SELECT b.x FROM b WHERE b.k < a.k AND b.x IS NOT NULL ORDER BY b.id LIMIT 2);
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k LIMIT 1 OFFSET 3);
SELECT id FROM a WHERE EXISTS (SELECT count(*) FROM b WHERE b.x > a.x GROUP BY b.k HAVING count(*) > 2);
SELECT a.id, l.x FROM a, LATERAL (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.x NULLS LAST, b.id LIMIT 2) l;
SELECT a.id, l.x FROM a LEFT JOIN LATERAL (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.x NULLS LAST, b.id LIMIT 2) l ON true;
SELECT a.id, l.x FROM a LEFT JOIN LATERAL (SELECT b.x, b.id FROM b WHERE b.x > a.x ORDER BY b.x, b.id LIMIT 2) l ON l.id > 3;
SELECT a.id, l.c FROM a, LATERAL (SELECT count(*) AS c FROM b WHERE b.x > a.x) l;
SELECT a.id, l.c FROM a LEFT JOIN LATERAL (SELECT count(*) AS c, max(b.x) AS m FROM b WHERE b.x > a.x) l ON l.c > 2;
SELECT a.id, l.y FROM a, LATERAL (SELECT a.k + 1 AS y) l;
SELECT (SELECT a.k) FROM a;
SELECT id, (SELECT sum(v) FROM (SELECT b.x AS v FROM b WHERE b.k = a.k UNION ALL SELECT a.x) u) FROM a;
SELECT id, (SELECT count(*) FROM (SELECT DISTINCT b.k FROM b WHERE b.x <> a.x) u) FROM a;
SELECT id, (SELECT DISTINCT b.k FROM b WHERE b.k = a.k) FROM a;
SELECT id, (SELECT max(r) FROM (SELECT row_number() OVER (ORDER BY b.x NULLS LAST, b.id) AS r, b.x FROM b WHERE b.k = a.k) w) FROM a;
SELECT id, (SELECT max(sm) FROM (SELECT sum(b.x) OVER (PARTITION BY b.s ORDER BY b.id) AS sm FROM b WHERE b.x > a.x) w) FROM a;
SELECT id, (SELECT string_agg(b.s, ',' ORDER BY b.id) FROM b WHERE b.x > a.x) FROM a;
SELECT id, (SELECT count(*) FILTER (WHERE b.x > 3) FROM b WHERE b.k > a.k) FROM a;
SELECT id, (SELECT count(DISTINCT b.k) FROM b WHERE b.x > a.x) FROM a;
SELECT id, CASE WHEN x > 3 THEN (SELECT min(b.x) FROM b WHERE b.x > a.x) ELSE 0 END FROM a;
SELECT id FROM a ORDER BY (SELECT count(*) FROM b WHERE b.x > a.x), id;
SELECT k, sum((SELECT count(*) FROM b WHERE b.x > a.x)) FROM a GROUP BY k;
SELECT id FROM a WHERE (SELECT count(*) FROM b WHERE b.x > a.x) = (SELECT count(*) FROM b WHERE b.x < a.x);
SELECT id, (SELECT b.x FROM b WHERE b.x > a.x GROUP BY b.x HAVING count(*) > 1 ORDER BY 1 LIMIT 1) FROM a;
SELECT id, x IN (SELECT b.x FROM b WHERE b.k > a.k) FROM a;
SELECT id, EXISTS (SELECT 1 FROM b WHERE b.k > a.k AND b.x > a.x) FROM a;
SELECT id, (SELECT (SELECT count(*) FROM a a3 WHERE a3.x > b.x) FROM b WHERE b.k = a.k ORDER BY b.id LIMIT 1) FROM a;
SELECT id FROM a WHERE k >= (WITH c AS (SELECT avg(b.x) m FROM b WHERE b.k = a.k) SELECT m FROM c);
SELECT id, (SELECT count(*) FROM b JOIN a a2 ON b.id = a2.id AND a2.x <> a.x) FROM a;
SELECT id, (SELECT count(*) FROM (SELECT b.id FROM b WHERE b.x > a.x INTERSECT SELECT a2.id FROM a a2 WHERE a2.x < a.x) u) FROM a;
SELECT id, (SELECT count(*) FROM (SELECT b.id FROM b WHERE b.x > a.x EXCEPT SELECT a2.id FROM a a2 WHERE a2.x < a.x) u) FROM a;
SELECT id FROM a WHERE x = (SELECT min(b.x) FROM b WHERE b.id IN (SELECT a2.id FROM a a2 WHERE a2.k = b.k) AND b.x > a.k);
SELECT id, (SELECT max(b.x) FROM b WHERE b.k = a.k AND b.x < a.x) FROM a;
SELECT a.id, b.id FROM a LEFT JOIN b ON a.k = b.k AND b.x IN (SELECT x FROM a WHERE x > 3);
SELECT a.id, b.id FROM a LEFT JOIN b ON a.k = b.k AND b.x NOT IN (SELECT x FROM a WHERE x > 3);
SELECT a.id, b.id FROM a JOIN b ON a.k = b.k AND b.x > (SELECT avg(x) FROM a WHERE a.k = b.k);
SELECT id, (SELECT avg(b.x) FROM b WHERE b.k IS NOT DISTINCT FROM a.k) FROM a;
SELECT id, (SELECT count(*) FROM b) , (SELECT count(*) FROM a) FROM a;
SELECT id FROM a WHERE x > ALL (SELECT b.x FROM b WHERE b.k < a.k AND b.x IS NOT NULL);
SELECT id, x > ANY (SELECT b.x FROM b WHERE b.k < a.k) FROM a;
SELECT id, x = ALL (SELECT b.x FROM b) FROM a;
SELECT id, (SELECT count(*) FROM (VALUES (1), (2)) v(y) WHERE v.y <= a.k) FROM a;
SELECT id, (SELECT count(*) FROM b JOIN a a2 ON b.k = a2.k AND a2.x <> a.x) FROM a;
SELECT id, (SELECT count(*) FROM b WHERE b.k = a.k HAVING count(*) > a.x) FROM a;
SELECT id, (SELECT count(*) FROM b WHERE b.k + 1 = a.k) FROM a;
SELECT id, (SELECT count(*) FROM b WHERE upper(b.s) = upper(a.s)) FROM a;
SELECT id, (SELECT count(*) FROM b WHERE a.k = 1) FROM a;
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k ORDER BY b.x);
SELECT id FROM a WHERE x IN (SELECT b.x FROM b WHERE b.k = a.k ORDER BY b.x);
SELECT id FROM a WHERE x IN (SELECT (SELECT count(*) FROM a c WHERE c.x > b.x) FROM b WHERE b.k = a.k);
SELECT id FROM a WHERE EXISTS (SELECT 1 FROM (SELECT * FROM b WHERE b.k = a.k) t WHERE t.x > (SELECT avg(c.x) FROM a c WHERE c.id <> t.id));
SELECT id, (SELECT max(b.x) FROM b WHERE b.x > a.x GROUP BY a.x) FROM a;
SELECT id FROM a WHERE k <> 0 AND x > (SELECT sum(b.x * a.k) FROM b WHERE b.x > a.x);
"""


@pytest.fixture(scope="module")
def databases(empty_uri):
    """Two small tables with nulls and repeated values, in Plexus and in DuckDB."""
    seed = random.randrange(1_000_000)
    print("seed", seed)
    rng = random.Random(seed)
    duck = duckdb.connect()
    with connect(empty_uri) as connection:
        for table, rows in ("a", 12), ("b", 15):
            value = lambda choices: rng.choice(["NULL", *choices])
            values = [f"({i}, {value('1234')}, {value('0123456789')}, {value(['NULL', chr(39) + 'p' + chr(39)])})"
                      for i in range(rows)]
            for statement in (f"CREATE TABLE {table} (id INT, k INT, x INT, s VARCHAR)",
                              f"INSERT INTO {table} VALUES {', '.join(values)}"):
                duck.execute(statement)
                rows_of(connection, statement)
        yield connection, duck


@pytest.mark.parametrize("layout", ["log", "spread"])
def test_correlated_subqueries_have_the_rows_of_duckdb(databases, layout):
    connection, duck = databases
    if layout == "spread":
        for statement in "OPTIMIZE a", "OPTIMIZE b", SPREAD:
            rows_of(connection, statement)
    faults = []
    for query in filter(None, map(str.strip, QUERIES.split(";"))):
        found = difference(rows_of(connection, query), duck.execute(query).fetchall())
        if found:
            faults.append(f"{query}\n  {found}")
    assert not faults, "\n".join(faults)
