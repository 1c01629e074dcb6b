#!/usr/bin/env python3
"""Random statements against Plexus and DuckDB: the same rows, or an error of both."""

import argparse
import datetime
import decimal
import math
import random
import sys

import adbc_driver_flightsql.dbapi as dbapi
import duckdb

# Types by kind: what Plexus calls them, and DuckDB.
TYPES = {
    "int": ["INT", "BIGINT", "SMALLINT"],
    "double": ["DOUBLE"],
    "decimal": ["DECIMAL(10, 2)", "DECIMAL(18, 4)"],
    "text": ["VARCHAR"],
    "date": ["DATE"],
    "timestamp": ["TIMESTAMP"],
    "bool": ["BOOLEAN"],
}
TEXTS = ["", "a", "ab", "abc", "B", "it's", "p''q", "back\\slash", "50%", "ünï", "x y", "\\'", "null"]


class Column:
    def __init__(self, name, kind, sql):
        self.name, self.kind, self.sql = name, kind, sql


class Table:
    def __init__(self, name, columns):
        self.name, self.columns = name, columns

    def of(self, kind):
        return [column for column in self.columns if column.kind == kind]


class Generator:
    """Statements that mean the same in both dialects."""

    def __init__(self, rng):
        self.rng = rng

    def table(self, name):
        rng = self.rng
        kinds = [rng.choice(list(TYPES)) for _ in range(rng.randint(2, 6))]
        columns = [Column(f"c{i}", kind, rng.choice(TYPES[kind])) for i, kind in enumerate(kinds)]
        return Table(name, [Column("id", "int", "INT PRIMARY KEY"), *columns])

    # Literals. A third of the values are of a few that matter.

    def literal(self, kind):
        rng = self.rng
        if rng.random() < 0.12:
            return f"CAST(NULL AS {TYPES[kind][0]})"
        if kind == "int":
            return str(rng.choice([0, 1, -1, 7, 32767]) if rng.random() < 0.4 else rng.randint(-50, 50))
        if kind == "double":
            return rng.choice(["0e0", "1e-20", "-2.5e0", "1e10", "1.5e0"] + [f"{rng.randint(-99, 99)}.25e0"])
        if kind == "decimal":
            return f"{rng.randint(-99, 99)}.{rng.randint(0, 99):02}"
        if kind == "text":
            return "'" + rng.choice(TEXTS).replace("'", "''") + "'"
        if kind == "date":
            return f"DATE '{self.date()}'"
        if kind == "timestamp":
            return f"TIMESTAMP '{self.date()} {rng.randint(0, 23):02}:{rng.randint(0, 59):02}:00'"
        return rng.choice(["true", "false"])

    def date(self):
        rng = self.rng
        return f"{rng.choice([1969, 1970, 2000, 2024])}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"

    # Expressions of a kind over the columns in scope: pairs of alias and table.

    def column(self, kind, scope):
        found = [f"{alias}.{column.name}" for alias, table in scope for column in table.of(kind)]
        return self.rng.choice(found) if found else None

    def expr(self, kind, scope, depth=2):
        rng = self.rng
        column = self.column(kind, scope)
        if depth == 0 or rng.random() < 0.35:
            return column if column and rng.random() < 0.75 else self.literal(kind)
        sub = lambda of=kind: self.expr(of, scope, depth - 1)
        choices = [
            lambda: f"CASE WHEN {self.condition(scope, depth - 1)} THEN {sub()} ELSE {sub()} END",
            lambda: f"coalesce({sub()}, {sub()})",
            lambda: f"nullif({sub()}, {sub()})",
        ]
        if kind in ("int", "double", "decimal"):
            choices += [lambda: f"({sub()} {rng.choice('+-')} {sub()})", lambda: f"(- {sub()})"]
        if kind == "int":
            choices += [
                lambda: f"CAST(length({sub('text')}) AS INT)",
                lambda: f"CAST(extract(year FROM {sub('date')}) AS INT)",
                lambda: f"({sub()} % 7)",
            ]
        if kind == "double":
            choices += [
                lambda: f"({sub()} * {sub('decimal')})",
                lambda: f"({sub()} / nullif({sub('double')}, 0e0))",
                lambda: f"CAST({sub('int')} AS DOUBLE)",
            ]
        if kind == "text":
            choices += [
                lambda: f"({sub()} || {sub()})",
                lambda: f"upper({sub()})",
                lambda: f"substr({sub()}, 1, 2)",
                lambda: f"CAST({sub('int')} AS VARCHAR)",
            ]
        if kind == "bool":
            return f"({self.condition(scope, depth - 1)})"
        return rng.choice(choices)()

    def condition(self, scope, depth=2):
        rng = self.rng
        kind = rng.choice([kind for kind in TYPES if kind != "bool"])
        other = rng.choice(["int", "double", "decimal"]) if kind in ("int", "double", "decimal") else kind
        left = self.expr(kind, scope, 1)
        choices = [
            lambda: f"{left} {rng.choice(['=', '<>', '<', '<=', '>', '>='])} {self.expr(other, scope, 1)}",
            lambda: f"{left} {rng.choice(['IS NULL', 'IS NOT NULL'])}",
            lambda: f"{left} {rng.choice(['', 'NOT '])}BETWEEN {self.expr(other, scope, 0)} AND {self.literal(kind)}",
            lambda: f"{left} {rng.choice(['', 'NOT '])}IN ({', '.join(self.literal(kind) for _ in range(rng.randint(1, 4)))})",
            lambda: f"{left} IS {rng.choice(['', 'NOT '])}DISTINCT FROM {self.expr(kind, scope, 0)}",
        ]
        if kind == "text":
            choices.append(lambda: f"{left} {rng.choice(['', 'NOT '])}LIKE {rng.choice(['a%', '%b%', '_', '%'])!r}")
        if depth > 0:
            sub = lambda: self.condition(scope, depth - 1)
            choices += [lambda: f"({sub()} AND {sub()})", lambda: f"({sub()} OR {sub()})", lambda: f"NOT ({sub()})"]
        return rng.choice(choices)()

    def subquery_condition(self, scope, tables):
        rng = self.rng
        table = rng.choice(tables)
        inner = [("q", table)]
        kinds = [kind for kind in ("int", "text") if table.of(kind) and self.column(kind, scope)]
        if not kinds:
            return self.condition(scope)
        kind = rng.choice(kinds)
        left, right = self.column(kind, scope), self.column(kind, inner)
        where = self.condition(inner, 1)
        return rng.choice([
            f"{left} {rng.choice(['', 'NOT '])}IN (SELECT {right} FROM {table.name} q WHERE {where})",
            f"{rng.choice(['', 'NOT '])}EXISTS (SELECT 1 FROM {table.name} q WHERE {right} = {left} AND {where})",
            f"{left} > (SELECT min({right}) FROM {table.name} q WHERE {where})",
        ])

    def source(self, tables, name):
        """A table or a derived table under an alias, and its columns."""
        rng = self.rng
        table = rng.choice(tables)
        if rng.random() < 0.75:
            return f"{table.name} {name}", table
        scope = [("i", table)]
        kinds = [rng.choice(list(TYPES)) for _ in range(rng.randint(1, 3))]
        columns = [Column("id", "int", ""), *(Column(f"c{i}", kind, "") for i, kind in enumerate(kinds))]
        items = ", ".join(f"{self.expr(kind, scope, 1)} AS c{i}" for i, kind in enumerate(kinds))
        limit = f" ORDER BY i.id LIMIT {rng.randint(1, 9)}" if rng.random() < 0.3 else ""
        where = f" WHERE {self.condition(scope, 1)}" if rng.random() < 0.5 else ""
        return f"(SELECT i.id, {items} FROM {table.name} i{where}{limit}) {name}", Table(name, columns)

    def window(self, scope):
        """A window function whose order is that of keys."""
        rng = self.rng
        kind = rng.choice(["int", "double", "decimal", "text", "date"])
        value = self.expr(kind, scope, 1)
        number = self.expr(rng.choice(["int", "decimal"]), scope, 1)
        function = rng.choice([
            "row_number()", "count(*)", f"count({value})", f"min({value})", f"max({value})", f"sum({number})",
            f"lag({value})", f"lead({value}, 2)", f"first_value({value})", f"last_value({value})",
        ])
        keys = [self.expr(rng.choice(["int", "text", "bool"]), scope, 1) for _ in range(rng.randint(0, 2))]
        partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
        order = ", ".join(f"{alias}.id" for alias, _ in scope)
        frame = rng.choice(["", "", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING", " ROWS UNBOUNDED PRECEDING"])
        if function.startswith(("row", "lag", "lead")):
            frame = ""
        return f"{function} OVER ({partition}ORDER BY {order}{frame})"

    def scalar_subquery(self, scope, tables):
        rng = self.rng
        table = rng.choice(tables)
        inner = [("q", table)]
        kind = rng.choice(["int", "decimal", "double", "text"])
        value = self.expr(kind, inner, 1)
        where = self.condition(inner, 1)
        if rng.random() < 0.5:
            where = f"q.id = {scope[0][0]}.id AND {where}"
        return f"(SELECT {rng.choice(['min', 'max', 'count'])}({value}) FROM {table.name} q WHERE {where})"

    def query(self, tables):
        rng = self.rng
        shape = rng.random()
        if shape < 0.08:
            table = rng.choice(tables)
            scope = [("i", table)]
            kinds = [rng.choice(["int", "text", "decimal", "double"]) for _ in range(2)]
            items = ", ".join(f"{self.expr(kind, scope, 1)} AS c{i}" for i, kind in enumerate(kinds))
            common = Table("w", [Column("id", "int", ""), *(Column(f"c{i}", k, "") for i, k in enumerate(kinds))])
            scope = [("a", common), ("b", common)]
            return (
                f"WITH w AS (SELECT i.id, {items} FROM {table.name} i WHERE {self.condition([('i', table)], 1)}) "
                f"SELECT a.id, {self.expr(rng.choice(list(TYPES)), scope)} AS v FROM w a "
                f"{rng.choice(['JOIN', 'LEFT JOIN', 'FULL JOIN'])} w b ON a.id = b.id + {rng.randint(0, 3)}"
            )
        if shape < 0.12:
            kinds = [rng.choice(list(TYPES)) for _ in range(2)]
            sides = []
            for _ in range(2):
                table = rng.choice(tables)
                scope = [("a", table)]
                items = ", ".join(f"{self.expr(kind, scope)} AS v{i}" for i, kind in enumerate(kinds))
                sides.append(f"SELECT {items} FROM {table.name} a WHERE {self.condition(scope)}")
            return f" {rng.choice(['UNION ALL', 'UNION', 'INTERSECT', 'EXCEPT'])} ".join(sides)
        source, first = self.source(tables, "a")
        scope = [("a", first)]
        if shape > 0.6:
            right, second = self.source(tables, "b")
            kind = rng.choice([kind for kind in ("int", "text") if first.of(kind) and second.of(kind)])
            scope.append(("b", second))
            on = f"{self.column(kind, scope[:1])} = {self.column(kind, scope[1:])}"
            if rng.random() < 0.3:
                on += f" AND {self.condition(scope, 1)}"
            source += f" {rng.choice(['JOIN', 'LEFT JOIN', 'RIGHT JOIN', 'FULL JOIN'])} {right} ON {on}"
        where = ""
        if rng.random() < 0.8:
            condition = self.subquery_condition(scope, tables) if rng.random() < 0.3 else self.condition(scope)
            where = f" WHERE {condition}"
        if rng.random() < 0.35:
            keys = [self.expr(rng.choice(["int", "text", "date", "bool"]), scope, 1) for _ in range(rng.randint(0, 2))]
            kind = rng.choice(["int", "decimal", "double"])
            aggregates = [
                "count(*)", f"count({self.expr(kind, scope, 1)})", f"sum({self.expr('int', scope, 1)})",
                f"min({self.expr(kind, scope, 1)})", f"max({self.expr('text', scope, 1)})",
                f"sum({self.expr('decimal', scope, 1)})", f"avg({self.expr('int', scope, 1)})",
                f"count(DISTINCT {self.expr('text', scope, 1)})",
                f"count(*) FILTER (WHERE {self.condition(scope, 1)})",
            ]
            items = [f"{key} AS k{i}" for i, key in enumerate(keys)]
            items += [f"{a} AS v{i}" for i, a in enumerate(rng.sample(aggregates, rng.randint(1, 3)))]
            group = f" GROUP BY {', '.join(str(i + 1) for i in range(len(keys)))}" if keys else ""
            having = f" HAVING count(*) > {rng.randint(0, 2)}" if rng.random() < 0.2 else ""
            return f"SELECT {', '.join(items)} FROM {source}{where}{group}{having}"
        items = [f"{self.expr(rng.choice(list(TYPES)), scope)} AS v{i}" for i in range(rng.randint(1, 4))]
        extra = rng.random()
        if extra < 0.25:
            items += [f"{self.window(scope)} AS w{i}" for i in range(rng.randint(1, 2))]
        elif extra < 0.4:
            items.append(f"{self.scalar_subquery(scope, tables)} AS s")
        distinct = "DISTINCT " if rng.random() < 0.15 else ""
        order = ""
        if rng.random() < 0.2:
            # By all columns, so that equal rows alone may come in any order.
            keys = [f"{i + 1}{rng.choice([' NULLS FIRST', ' DESC NULLS LAST', ' NULLS LAST'])}" for i in range(len(items))]
            order = f" ORDER BY {', '.join(keys)} LIMIT {rng.randint(1, 6)}"
            if rng.random() < 0.3:
                order += f" OFFSET {rng.randint(1, 4)}"
        return f"SELECT {distinct}{', '.join(items)} FROM {source}{where}{order}"

    def dml(self, tables):
        rng = self.rng
        table = rng.choice(tables)
        scope = [(table.name, table)]
        column = rng.choice(table.columns[1:])
        kind = rng.random()
        if kind < 0.35:
            row = lambda key: f"({key}, {', '.join(self.literal(c.kind) for c in table.columns[1:])})"
            conflict = rng.choice([
                "", " ON CONFLICT (id) DO NOTHING",
                f" ON CONFLICT (id) DO UPDATE SET {column.name} = excluded.{column.name}",
                f" ON CONFLICT (id) DO UPDATE SET {column.name} = coalesce({table.name}.{column.name}, excluded.{column.name})",
            ])
            count = 1 if "UPDATE" in conflict else rng.randint(1, 4)
            # DuckDB refuses a key that is given twice, also to DO NOTHING.
            keys = rng.sample(range(61), count)
            return f"INSERT INTO {table.name} VALUES {', '.join(map(row, keys))}{conflict}"
        if kind < 0.7:
            value = self.expr(column.kind, scope)
            return f"UPDATE {table.name} SET {column.name} = {value} WHERE {self.condition(scope)}"
        return f"DELETE FROM {table.name} WHERE {self.condition(scope)} AND {table.name}.id % 3 = {rng.randint(0, 2)}"


def normal(value):
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, int):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    return value


def sort_key(row):
    # Floats by nine digits, however small they are: sums differ in the last ones.
    def key(value):
        is_finite = isinstance(value, float) and math.isfinite(value)
        return (value is None, str(type(value)), float(f"{value:.9g}") if is_finite else str(value))
    return tuple(map(key, row))


def same_value(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1e-12)
    return a == b


def same_rows(ours, theirs):
    ours = sorted((tuple(map(normal, row)) for row in ours), key=sort_key)
    theirs = sorted((tuple(map(normal, row)) for row in theirs), key=sort_key)
    return len(ours) == len(theirs) and all(
        len(a) == len(b) and all(map(same_value, a, b)) for a, b in zip(ours, theirs))


REFUSALS = ("Binder Error", "Overflow", "out of range", "Out of Range", "Conversion", "Could not cast")


class Difference(Exception):
    pass


class Fuzzer:
    def __init__(self, url, seed):
        self.rng = random.Random(seed)
        self.plexus = dbapi.connect(url, db_kwargs={"username": "fuzz", "password": ""}, autocommit=True)
        self.counts = {"statements": 0, "errors of both": 0, "unsupported": 0, "too strict": 0}
        self.round = 0

    def ours(self, sql):
        with self.plexus.cursor() as cursor:
            cursor.execute(sql)
            try:
                return cursor.fetchall() if cursor.description else cursor.rowcount
            except dbapi.Error as error:
                if "Cannot fetch" in str(error) or "no result set" in str(error).lower():
                    return cursor.rowcount
                raise

    def attempt(self, run, sql):
        try:
            return run(sql), None
        except Exception as error:  # Either driver has errors of its own.
            return None, str(error)

    def theirs(self, sql):
        result = self.duck.execute(sql)
        return result.fetchall() if result.description else None

    def compare(self, sql, what):
        self.counts["statements"] += 1
        mine, my_error = self.attempt(self.ours, sql)
        other, other_error = self.attempt(self.theirs, sql)
        if my_error and "INTERNAL" in my_error.upper().split(";")[0]:
            raise Difference(f"{what}: an internal error\n{sql}\nPlexus: {my_error}")
        if my_error and other_error:
            self.counts["errors of both"] += 1
        elif my_error:
            lowered = my_error.lower()
            if "not supported" in lowered or "not implemented" in lowered or "unsupported" in lowered:
                self.counts["unsupported"] += 1
            elif any(word in lowered for word in ("overflow", "out of range", "does not fit", "too large")):
                self.counts["too strict"] += 1
            else:
                raise Difference(f"{what}\n{sql}\nPlexus: {my_error}\nDuckDB: {other}")
            return False
        elif other_error:
            # What DuckDB refuses to bind or to compute cannot be compared.
            if any(word in other_error for word in REFUSALS):
                return False
            raise Difference(f"{what}\n{sql}\nPlexus: {mine}\nDuckDB: {other_error}")
        elif isinstance(mine, list) and not same_rows(mine, other):
            raise Difference(f"{what}\n{sql}\nPlexus: {sorted(map(str, mine))}\nDuckDB: {sorted(map(str, other))}")
        return True

    def check_tables(self, tables, what):
        for table in tables:
            self.compare(f"SELECT * FROM {table.name}", what)

    def run_round(self, limit):
        rng, generator = self.rng, Generator(self.rng)
        self.round += 1
        self.duck = duckdb.connect()
        # DuckDB subtracts and compares decimals as Plexus does; its integer division is not used.
        tables = [generator.table(f"fuzz_{self.round}_{i}") for i in range(2)]
        self.log = []
        try:
            for table in tables:
                columns = ", ".join(f"{c.name} {c.sql}" for c in table.columns)
                create = f"CREATE TABLE {table.name} ({columns})"
                self.log.append(create)
                self.ours(create)
                self.duck.execute(create)
            for _ in range(14):
                statement = generator.dml(tables)
                self.log.append(statement)
                if not self.compare(statement, "a change") and self.counts["statements"]:
                    # Plexus refused what DuckDB did: the tables differ from here on.
                    for table in tables:
                        self.duck.execute(f"DELETE FROM {table.name}")
                        rows = self.ours(f"SELECT * FROM {table.name}")
                        if rows:
                            marks = ", ".join("?" * len(table.columns))
                            self.duck.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)
            self.check_tables(tables, "rows after the changes")
            queries = [generator.query(tables) for _ in range(18)]
            for mode in ("rows in the log", "rows in files", "spread over nodes"):
                if mode == "rows in files":
                    for table in tables:
                        self.ours(f"OPTIMIZE {table.name}")
                self.ours("SET plexus.task_bytes = 1" if mode == "spread over nodes" else "RESET plexus.task_bytes")
                for query in queries:
                    if self.counts["statements"] >= limit:
                        return
                    self.compare(query, mode)
        finally:
            self.attempt(self.ours, "RESET plexus.task_bytes")
            for table in tables:
                self.attempt(self.ours, f"DROP TABLE IF EXISTS {table.name}")


def fuzz(url, seed, statements):
    """Runs `statements` statements. Returns their counts; raises `Difference`."""
    fuzzer = Fuzzer(url, seed)
    while fuzzer.counts["statements"] < statements:
        try:
            fuzzer.run_round(statements)
        except Difference as difference:
            log = ";\n".join(fuzzer.log)
            raise Difference(f"seed {seed}, round {fuzzer.round}: {difference}\nAfter:\n{log}") from None
    return fuzzer.counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="grpc://127.0.0.1:7070", help="a node of the cluster")
    parser.add_argument("--seed", type=int, default=None, help="seed of the statements; random if not given")
    parser.add_argument("--statements", type=int, default=20_000, help="how many statements to run")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    try:
        counts = fuzz(args.url, seed, args.statements)
    except Difference as difference:
        print(difference)
        return 1
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
