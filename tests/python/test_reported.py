"""Faults that were reported of other systems do not occur here: with rows in the log, in files, and spread."""

import re

import adbc_driver_flightsql.dbapi as dbapi
import pytest

from duckdb_oracle import SPREAD, connect
from differential import normal, same_value
import reported
import reported_further
import reported_more

REPORTS = reported.REPORTS + reported_more.REPORTS + reported_further.REPORTS

CREATED = re.compile(r'(?i)create table (?:if not exists )?"?(\w+)')


def run(connection, statement, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [tuple(row) for row in cursor.fetchall()]


def fault(found, expected):
    """What is wrong with rows or an error; `None` if they are as expected."""
    if isinstance(expected, dict) and "any" in expected:
        faults = [fault(found, one) for one in expected["any"]]
        return None if None in faults else faults[0]
    if isinstance(expected, dict):
        is_error = isinstance(found, str) and "INTERNAL" not in found and re.search(expected["error"], found)
        return None if is_error else found
    same = (
        not isinstance(found, str)
        and len(found) == len(expected)
        and all(len(a) == len(b) and all(map(same_value, map(normal, a), map(normal, b)))
                for a, b in zip(found, expected))
    )
    return None if same else found


def answer(connection, report):
    for statement in report.get("before", []):
        run(connection, statement)
    try:
        return run(connection, report["query"], report.get("parameters"))
    except dbapi.Error as error:
        return " ".join(str(error).split())
    finally:
        for statement in report.get("after", []):
            run(connection, statement)


@pytest.mark.parametrize("layout", ["log", "files", "spread"])
def test_reported_faults_do_not_occur(empty_uri, layout):
    faults = []
    with connect(empty_uri) as connection:
        setups = {tuple(report["setup"]): [] for report in REPORTS}
        for report in REPORTS:
            setups[tuple(report["setup"])].append(report)
        for setup, reports in setups.items():
            tables = [CREATED.match(statement)[1] for statement in setup if CREATED.match(statement)]
            for statement in setup:
                run(connection, statement)
            if layout != "log":
                for table in tables:
                    run(connection, f"OPTIMIZE {table}")
            if layout == "spread":
                run(connection, SPREAD)
            for report in reports:
                if not report.get("changes") or layout == "log":
                    wrong = fault(answer(connection, report), report["expected"])
                    if wrong is not None:
                        faults.append(f"{report['name']} ({report['source']}): {report['query']}\n  {wrong}")
            if layout == "spread":
                run(connection, "RESET plexus.task_bytes")
            for table in tables:
                run(connection, f"DROP TABLE {table}")
    assert not faults, "\n".join(faults)
