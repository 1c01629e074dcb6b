"""Random statements give what DuckDB gives. The long run is `fuzz/differential.py`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "fuzz"))

import differential

SEED = 20261129
STATEMENTS = 300


def test_random_statements_give_what_duckdb_gives(uri):
    print(f"seed {SEED}")
    counts = differential.fuzz(uri, SEED, STATEMENTS)
    assert counts["statements"] >= STATEMENTS
    # A fuzzer whose statements are refused compares nothing.
    assert counts["unsupported"] + counts["errors of both"] < STATEMENTS / 4, counts
