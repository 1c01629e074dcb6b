//! Statements to begin with: each form that the dialect has, small.

/// Their texts.
pub(crate) const STATEMENTS: [&str; 40] = [
    "SELECT a, b FROM t WHERE a > 1 AND b LIKE 'x%' ORDER BY a DESC NULLS LAST LIMIT 10 OFFSET 2",
    "SELECT count(*), sum(a), avg(c), min(b) FILTER (WHERE a > 1) FROM t GROUP BY b HAVING count(*) > 1",
    "SELECT t.a, u.s FROM t JOIN u ON t.a = u.a LEFT JOIN t AS x USING (a) WHERE u.d > DATE '2024-01-31'",
    "SELECT * FROM t NATURAL FULL JOIN u",
    "SELECT a, (SELECT max(u.a) FROM u WHERE u.a < t.a) FROM t WHERE EXISTS (SELECT 1 FROM u WHERE \
     u.a = t.a)",
    "SELECT a FROM t WHERE a NOT IN (SELECT a FROM u) OR (a, b) IN ((1, 'x'), (2, NULL))",
    "SELECT a FROM t UNION ALL SELECT a FROM u EXCEPT ALL SELECT 3 INTERSECT SELECT 4",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 9) SELECT * FROM r",
    "SELECT row_number() OVER w, lag(a, 2, 0) IGNORE NULLS OVER (ORDER BY a) FROM t WINDOW w AS \
     (PARTITION BY b)",
    "SELECT sum(c) OVER (ORDER BY a ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t QUALIFY a > 1",
    "SELECT CASE a WHEN 1 THEN 'one' ELSE b END, coalesce(b, 'none'), nullif(a, 0), CAST(c AS \
     DECIMAL(10, 2)) FROM t",
    "SELECT date_trunc('month', d), extract(year FROM d), d + INTERVAL '1' MONTH, TIMESTAMP \
     '2024-01-01 00:00:00' FROM u",
    "SELECT a::VARCHAR || '-' || b, TRY_CAST(b AS INT), -a, a % 3, a / 2, 1e5, 2.50, .5, 0x1f FROM t",
    "SELECT DISTINCT ON (b) a, b FROM t ORDER BY b, a",
    "SELECT b, grouping(b) FROM t GROUP BY ROLLUP (b, a), CUBE (c) ORDER BY 1",
    "SELECT * FROM (VALUES (1, 'x'), (2, 'y')) AS v(n, s) CROSS JOIN LATERAL (SELECT a FROM t WHERE \
     a = v.n) l",
    "SELECT unnest([1, 2, 3]), array_agg(a ORDER BY b), struct(1 AS x).x, [a, 2][1] FROM t",
    "SELECT a FROM t WHERE b SIMILAR TO '(a|b)%' OR b ~ '^x.*' OR b IS DISTINCT FROM 'y' OR a \
     BETWEEN 1 AND 2",
    "SELECT a FROM t WHERE a >= ALL (SELECT a FROM u) AND a = ANY (SELECT 1)",
    "SELECT * EXCLUDE (a), t.* FROM t TABLESAMPLE SYSTEM (10)",
    "SELECT $1 + a, ? FROM t WHERE b = $2 LIMIT $3",
    "SELECT * FROM t VERSION AS OF 3 WHERE a = 1",
    "SELECT * FROM t TIMESTAMP AS OF '2024-01-01T00:00:00Z'",
    "SELECT * FROM text_search('t', 'b', 'a \"quoted phrase\" -not')",
    "SELECT to_char(TIMESTAMP '2024-02-29 12:00:00', '%Y') AT TIME ZONE 'Europe/Berlin'",
    "SELECT sum(a) FROM t PIVOT (sum(a) FOR b IN ('x', 'y'))",
    "INSERT INTO t (a, b) VALUES (1, 'it''s'), (2, DEFAULT) ON CONFLICT (a) DO UPDATE SET b = \
     excluded.b WHERE t.a > 0",
    "INSERT INTO t SELECT a, s, 1.5 FROM u RETURNING a, b AS c",
    "INSERT INTO u DEFAULT VALUES",
    "UPDATE t SET b = upper(b), c = c * 2 WHERE a IN (SELECT a FROM u) RETURNING *",
    "UPDATE t SET b = u.s FROM u WHERE u.a = t.a",
    "DELETE FROM t USING u WHERE t.a = u.a AND u.s = '\\'",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED AND u.s = 'x' THEN DELETE WHEN MATCHED \
     THEN UPDATE SET b = u.s \
     WHEN NOT MATCHED THEN INSERT (a, b) VALUES (u.a, u.s)",
    "CREATE TABLE n (a BIGINT PRIMARY KEY, b VARCHAR NOT NULL DEFAULT 'x', c DECIMAL(10, 2) CHECK (c > 0))",
    "ALTER TABLE t ADD COLUMN e INT DEFAULT 3",
    "EXPLAIN SELECT a FROM t",
    "SET statement_timeout = '5s'",
    "PREPARE p AS SELECT a FROM t WHERE a = $1",
    "BEGIN; SELECT \"a\", 'é', U&'\\0041' -- comment\n /* another */ FROM \"t\"; COMMIT",
    "COPY (SELECT a FROM t) TO 'x.csv' WITH (header true)",
];
