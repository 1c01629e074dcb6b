"""A part of DataFusion's own tests. `make slt` runs all of them."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parents[1] / "datafusion"
sys.path.insert(0, str(TESTS))

import slt

SPREAD = ["plexus.task_bytes = 1"]
PARTS = 8
# Of the records that another database than DataFusion could pass, with the default settings.
PASSED_MIN = 0.973


@pytest.fixture(scope="module")
def files():
    found = subprocess.run([TESTS / "fetch"], capture_output=True, text=True, check=True).stdout.strip()
    return [pathlib.Path(found)]


@pytest.mark.parametrize(("settings", "part"), [([], 0), (SPREAD, 4)])
def test_records_pass_or_are_listed(empty_uri, files, settings, part):
    parts = int(os.environ.get("PLEXUS_SLT_PARTS", PARTS))
    runner = slt.Runner(empty_uri, timeout=20, settings=settings, optimize=bool(settings))
    known = slt.read_known(TESTS / "known_differences.txt")
    new, missing = slt.run(runner, files, f"{part % parts}/{parts}", known)
    assert not new, "\n".join(f"{failure}" for failure in new)
    assert not missing or settings, f"listed, but they pass: {missing}"
    assert runner.counts["portable"] > 500
    if parts == 1 and not settings:
        # What Plexus supports and DataFusion refuses is no failure of Plexus, nor is what PostgreSQL answers.
        passed = sum(reason in ("supported", "standard") for reason in known.values())
        failed = runner.counts["failed"] - passed
        assert failed <= (1 - PASSED_MIN) * runner.counts["portable"]
