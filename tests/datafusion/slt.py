#!/usr/bin/env python3
"""Runs the sqllogictest files of DataFusion against a cluster, over Flight SQL.

Records that only DataFusion itself could pass (plans, external tables, views, its settings and what depends on
them) are recognised by rules and left out. The others pass, or are listed in a file of known differences.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import pathlib
import re
import sys

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa

from arrow_text import rows_of, type_letter
from portability import FILL, LACK, Portability, without_comments
from records import Parser

IGNORE = "<slt:ignore>"
# The code of records that fail in distributed plans alone.
DISTRIBUTED = "distributed"


def arrange(rows, record):
    """The lines of the rows in the order and form that the record asks for."""
    if record.sort == "valuesort":
        rows = sorted([value] for row in rows for value in row)
    elif record.sort == "rowsort":
        rows = sorted(rows)
    values = [value for row in rows for value in row]
    if record.hash_threshold and len(values) > record.hash_threshold:
        digest = hashlib.md5("".join(f"{value}\n" for value in values).encode()).hexdigest()
        return [f"{len(values)} values hashing to {digest}"]
    return [" ".join(row).rstrip() for row in rows]


def same(lines, expected):
    if not any(IGNORE in line for line in expected):
        return lines == expected
    pattern = ".*".join(map(re.escape, "\n".join(expected).split(IGNORE)))
    return re.match(pattern, "\n".join(lines), re.DOTALL) is not None


def is_ordered(sql):
    """Whether the outermost query has an ORDER BY."""
    while (shorter := re.sub(r"\([^()]*\)", "", sql)) != sql:
        sql = shorter
    return re.search(r"\bORDER\s+BY\b", sql, re.IGNORECASE) is not None


def statements(sql):
    """`sql` in the form that other databases know: CREATE TABLE with columns and AS is two statements."""
    head = re.match(r"\s*CREATE\s+(OR\s+REPLACE\s+)?TABLE\s+((?:IF\s+NOT\s+EXISTS\s+)?)((?:\"[^\"]+\"|[\w.])+)\s*\(", sql,
                    re.IGNORECASE)
    if not head:
        return [sql]
    depth, end = 1, head.end()
    while depth and end < len(sql):
        depth += {"(": 1, ")": -1}.get(sql[end], 0)
        end += 1
    query = re.match(r"\s*AS\b(.*)", sql[end:], re.IGNORECASE | re.DOTALL)
    if not query:
        return [sql]
    replace, condition, name = head.groups()
    drop = [f"DROP TABLE IF EXISTS {name}"] if replace else []
    return [*drop, f"CREATE TABLE {condition}{name} {sql[head.end() - 1:end]}", f"INSERT INTO {name} {query[1]}"]


@dataclasses.dataclass
class Outcome:
    """What became of a record: nothing is wrong with it unless it has a kind."""

    kind: str | None = None
    got: object = None


class Runner:
    """Runs files, each in a session of its own."""

    def __init__(self, url, timeout, settings, optimize):
        self.settings, self.optimize = settings, optimize
        limits = {f"adbc.flight.sql.rpc.timeout_seconds.{call}": str(float(timeout)) for call in ("fetch", "query", "update")}
        options = {"username": "slt", "password": ""}
        self.connect = lambda: dbapi.connect(url, db_kwargs=options, conn_kwargs=limits, autocommit=True)
        self.counts = collections.Counter()
        self.reasons = collections.Counter()

    def execute(self, sql):
        """The result of a statement: a table, or the number of changed rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table() if cursor.description else cursor.rowcount

    def names(self, sql):
        return {tuple(row.values()) for row in self.execute(sql).to_pylist()}

    def tables(self):
        return self.names("SELECT table_schema, table_name FROM plexus.tables")

    def schemas(self):
        return self.names("SELECT schema_name FROM information_schema.schemata")

    def run_file(self, path, name):
        """Yields a dictionary for each portable record that failed."""
        portability = Portability(path)
        with self.connect() as self.connection:
            for setting in self.settings:
                self.execute(f"SET {setting}")
            tables, schemas = self.tables(), self.schemas()
            for record in Parser().records(path, name):
                yield from self.run_record(record, portability)
        # A session of its own does not have the settings of the file.
        with self.connect() as self.connection:
            for schema, table in self.tables() - tables:
                self.execute(f'DROP TABLE "{schema}"."{table}"')
            for (schema,) in self.schemas() - schemas:
                self.execute(f'DROP SCHEMA "{schema}"')

    def run_record(self, record, portability):
        self.counts["records"] += 1
        reason = portability.reason(record)
        if reason:
            self.reasons[reason.removeprefix("depends on: ")] += 1
            portability.note(record, reason.removeprefix("depends on: "), done=False)
            if re.match(r"(SET|RESET)\b|DROP\s+TABLE\b", record.sql, re.IGNORECASE):
                self.attempt(record.sql)
            return
        outcome = self.outcome(record, portability)
        if outcome.kind == "not portable":
            self.reasons[outcome.got] += 1
            portability.note(record, outcome.got, done=False)
            return
        portability.note(record, "statement that failed", done=outcome.kind is None)
        self.counts["portable"] += 1
        if outcome.kind:
            self.counts["failed"] += 1
            yield {
                "file": record.file, "line": record.line, "sql": record.sql,
                "expected": {"ok": "ok", "error": f"error {record.pattern}".strip(), "count": record.count,
                             "rows": record.results}[record.expect],
                "got": outcome.got, "kind": outcome.kind,
            }

    def attempt(self, sql):
        try:
            return self.execute(sql), None
        except (dbapi.Error, pa.ArrowInvalid) as error:
            return None, str(error)

    def outcome(self, record, portability):
        for sql in statements(record.sql):
            result, error = self.attempt(sql)
            if error:
                break
            if self.optimize and (match := FILL.match(without_comments(sql))):
                self.execute(f"OPTIMIZE {match[1]}")
        if error:
            return self.outcome_of_error(record, error, portability)
        if record.expect == "error":
            if LACK.search(record.pattern):
                return Outcome()
            return Outcome("no error", arrange(rows_of(result), record)[:20] if isinstance(result, pa.Table) else result)
        # DataFusion reports no rows for CREATE TABLE AS.
        if record.expect == "ok" or re.match(r"\s*CREATE\b", record.sql, re.IGNORECASE):
            return Outcome()
        if record.expect == "count":
            count = len(result) if isinstance(result, pa.Table) else result
            return Outcome() if count == record.count else Outcome("wrong count", count)
        if isinstance(result, pa.Table):
            if any(re.search(r"(month|day_time)_interval", str(field.type)) for field in result.schema):
                return Outcome("not portable", "type that the client cannot read")
            types, rows = "".join(type_letter(field.type) for field in result.schema), rows_of(result)
        else:
            types, rows = record.types, [[str(result)]] if record.results else []
        return compare(record, types, rows)

    def outcome_of_error(self, record, error, portability):
        if re.match(r"(INTERNAL|UNKNOWN|IO)\b", error) or "panicked" in error or "Internal error" in error:
            return Outcome("internal error", error)
        if re.search(r"deadline ?exceeded|timeout", error, re.IGNORECASE):
            return Outcome("timeout", error)
        if record.expect == "error":
            return Outcome()
        reason = portability.refusal(record, error)
        return Outcome("not portable", reason) if reason else Outcome("error", error)


def compare(record, types, rows):
    lines = arrange(rows, record)
    if not same(lines, record.results):
        if sorted(lines) != sorted(record.results):
            return Outcome("wrong rows", lines)
        if is_ordered(record.sql):
            return Outcome("wrong order", lines)
    if types != record.types:
        return Outcome("wrong types", f"{types} instead of {record.types}: {lines[:5]}")
    return Outcome()


def files_of(paths):
    """The files below the paths, each with its name relative to the path that was given."""
    for path in paths:
        if path.is_dir():
            yield from ((file, str(file.relative_to(path))) for file in sorted(path.rglob("*.slt")))
        else:
            yield path, path.name


def read_known(path):
    """The records that a file lists as known to fail, `file:line` after the code of a reason: their codes."""
    lines = (line.split() for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {(name, int(line)): code for code, place in lines for name, line in [place.rsplit(":", 1)]}


def in_part(number, part):
    """Whether the file with this number is in part `I/N`."""
    index, parts = map(int, part.split("/"))
    return number % parts == index


def run(runner, paths, part, known, on_failure=lambda failure: None):
    """Runs a part of the files. Returns the failures that are not known, and the known ones that passed."""
    new, missing = [], []
    for number, (path, name) in enumerate(files_of(paths)):
        if not in_part(number, part):
            continue
        runner.counts["files"] += 1
        print(name, file=sys.stderr)
        failed = set()
        for failure in runner.run_file(path, name):
            on_failure(failure)
            failed.add((failure["file"], failure["line"]))
            if (failure["file"], failure["line"]) not in known:
                new.append(failure)
        listed = {place for place, code in known.items() if place[0].split(":")[0] == name and code != DISTRIBUTED}
        missing += sorted(listed - failed)
    return new, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=pathlib.Path, help="files, or directories with files, `*.slt`")
    parser.add_argument("--url", default="grpc://127.0.0.1:7070", help="a node of the cluster")
    parser.add_argument("--timeout", type=float, default=20, help="seconds for each statement")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="setting of the sessions")
    parser.add_argument("--optimize", action="store_true", help="move the rows of tables into files")
    parser.add_argument("--part", default="0/1", metavar="I/N", help="run the I-th of N parts of the files")
    parser.add_argument("--known", type=pathlib.Path, help="list of the records that are known to fail")
    parser.add_argument("--failures", type=pathlib.Path, help="file for the records that fail, as JSON lines")
    args = parser.parse_args()
    runner = Runner(args.url, args.timeout, args.set, args.optimize)
    failures = open(args.failures, "w") if args.failures else None
    note = lambda failure: failures and print(json.dumps(failure, ensure_ascii=False), file=failures, flush=True)
    known = read_known(args.known) if args.known else {}
    new, missing = run(runner, args.paths, args.part, known, note)
    for title, counts in [("totals", runner.counts), ("not portable", runner.reasons)]:
        print(f"{title}: " + ", ".join(f"{count} {key}" for key, count in counts.most_common()))
    for failure in new:
        print(f"fails: {json.dumps(failure, ensure_ascii=False)}")
    # Settings may mend a record that fails without them.
    for name, line in missing if not args.set else []:
        print(f"passes, although it is listed: {name}:{line}")
    return 1 if new or (missing and not args.set) else 0


if __name__ == "__main__":
    sys.exit(main())
