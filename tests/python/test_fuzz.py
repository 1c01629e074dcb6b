"""Short runs of the fuzzers of `fuzz/`."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "fuzz"))

import differential
import mutated_files

SEED = 20261129
STATEMENTS = 300
FILES_PER_FORMAT = 8


def test_random_statements_give_what_duckdb_gives(uri):
    print(f"seed {SEED}")
    counts = differential.fuzz(uri, SEED, STATEMENTS)
    assert counts["statements"] >= STATEMENTS
    # A fuzzer whose statements are refused compares nothing.
    assert counts["unsupported"] + counts["errors of both"] < STATEMENTS / 4, counts


def test_damaged_files_are_kept_whole_or_refused(uri, tmp_path):
    print(f"seed {SEED}")
    binary = os.environ.get("PLEXUS_BINARY", "plexus")
    kept = mutated_files.fuzz(binary, uri, SEED, FILES_PER_FORMAT, tmp_path)
    # Damage that is always noticed, or never, tests nothing.
    assert 0 < sum(kept.values()) < FILES_PER_FORMAT * len(kept)
