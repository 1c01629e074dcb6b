#!/usr/bin/env python3
"""Damaged files: a load keeps all rows of a file or refuses it. It never crashes, and never loses rows silently."""

import argparse
import csv
import gzip
import io
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import adbc_driver_flightsql.dbapi as dbapi
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

ROWS = 200
LOAD_SECONDS_MAX = 60


def table(rng):
    """A table with numbers, texts, times and lists, and nulls in all of them."""
    words = ["", "a", "it's", "x,y", 'say "hi"', "ünï", "long " * 20, "7", "true"]
    maybe = lambda value: None if rng.random() < 0.1 else value
    return pa.table({
        "id": pa.array(range(ROWS), pa.int64()),
        "n": pa.array([maybe(rng.randint(-1000, 1000)) for _ in range(ROWS)], pa.int32()),
        "x": pa.array([maybe(rng.randint(-1000, 1000) / 8) for _ in range(ROWS)], pa.float64()),
        "s": pa.array([maybe(rng.choice(words)) for _ in range(ROWS)], pa.string()),
        "t": pa.array([maybe(rng.randint(0, 2_000_000_000_000_000)) for _ in range(ROWS)], pa.timestamp("us")),
        "l": pa.array([maybe([rng.randint(0, 9) for _ in range(rng.randint(0, 3))]) for _ in range(ROWS)]),
    })


def to_csv(rows, delimiter):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    names = [name for name in rows.column_names if name != "l"]
    writer.writerow(names)
    for row in rows.select(names).to_pylist():
        writer.writerow(["" if value is None else value for value in row.values()])
    return text.getvalue().encode()


def to_json(rows, as_array):
    records = [json.dumps(row, default=str) for row in rows.to_pylist()]
    return (("[" + ",\n".join(records) + "]") if as_array else "\n".join(records) + "\n").encode()


def to_ipc(rows, new_writer, **options):
    sink = io.BytesIO()
    with new_writer(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows, max_chunksize=64)
    return sink.getvalue()


def to_parquet(rows, **options):
    sink = io.BytesIO()
    pa.parquet.write_table(rows, sink, row_group_size=64, **options)
    return sink.getvalue()


# What is written, by the extension of the file.
FORMATS = {
    "csv": lambda rows: to_csv(rows, ","),
    "tsv": lambda rows: to_csv(rows, "\t"),
    "csv.gz": lambda rows: gzip.compress(to_csv(rows, ",")),
    "ndjson": lambda rows: to_json(rows, as_array=False),
    "json": lambda rows: to_json(rows, as_array=True),
    "parquet": lambda rows: to_parquet(rows, compression="none"),
    "zstd.parquet": lambda rows: to_parquet(rows, compression="zstd", data_page_version="2.0"),
    "arrow": lambda rows: to_ipc(rows, pa.ipc.new_file),
    "arrows": lambda rows: to_ipc(rows, pa.ipc.new_stream),
    "zstd.arrows": lambda rows: to_ipc(rows, pa.ipc.new_stream, compression="zstd"),
}


def damage(rng, content):
    """One to three changes of the bytes: flips, cuts, insertions, repetitions, zeros."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not content:
            break
        at = rng.randrange(len(content))
        length = rng.randint(1, min(16, len(content)))
        change = rng.randrange(6)
        if change == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            content[at:at + length] = rng.randbytes(length)
        elif change == 2:
            del content[at:at + length]
        elif change == 3:
            content[at:at] = content[max(0, at - length):at] or b"\xff"
        elif change == 4:
            content[at:at + length] = bytes([rng.choice([0, 0xFF])]) * length
        else:
            del content[at:]
    return bytes(content)


def rows_of_text(content, extension):
    """The number of rows that a text has, read strictly; `None` where it cannot be read."""
    try:
        if extension.endswith("gz"):
            content = gzip.decompress(content)
        text = content.decode()
        if extension == "json":
            return len(json.loads(text))
        if extension == "ndjson":
            decoder, at, count = json.JSONDecoder(), 0, 0
            while text[at:].strip():
                at += len(text[at:]) - len(text[at:].lstrip())
                _, at = decoder.raw_decode(text, at)
                count += 1
            return count
        if "\r" in text:
            # A lone carriage return ends a line for some readers and not for others.
            return None
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if extension == "tsv" else ",", strict=True)
        return sum(1 for row in rows if row) - 1
    except (ValueError, EOFError, OSError, csv.Error, RecursionError, TypeError):
        return None


def rows_of_binary(content, extension):
    """The rows that Arrow's own reader finds; `None` where it cannot read the file."""
    try:
        if extension.endswith("parquet"):
            return pa.parquet.read_table(io.BytesIO(content)).num_rows
        open_ipc = pa.ipc.open_file if extension == "arrow" else pa.ipc.open_stream
        return open_ipc(content).read_all().num_rows
    except Exception:  # Whatever a damaged file makes of the reader.
        return None


class Fault(Exception):
    pass


def count(cursor, source):
    cursor.execute(f"SELECT count(*) FROM {source}")
    [(rows,)] = cursor.fetchall()
    return rows


def check(binary, url, path, extension, cursor):
    """Loads one file. Returns whether it was kept; raises `Fault` when the load misbehaved."""
    command = [binary, "load", "--url", url, "--create", "--table", "damaged", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_SECONDS_MAX, errors="replace")
    if run.returncode not in (0, 1) or "panicked" in run.stderr or "internal error" in run.stderr.lower():
        raise Fault(f"exit status {run.returncode}: {run.stderr}")
    if run.returncode == 1:
        if path.name not in run.stderr:
            raise Fault(f"the error does not name the file: {run.stderr}")
        if count(cursor, "information_schema.tables WHERE table_name = 'damaged'"):
            raise Fault(f"the file was refused, but its table exists: {run.stderr}")
        return False
    found = count(cursor, "damaged")
    cursor.execute("DROP TABLE damaged")
    cursor.fetchall()
    is_text = "arrow" not in extension and "parquet" not in extension
    content = path.read_bytes()
    expected = rows_of_text(content, extension) if is_text else rows_of_binary(content, extension)
    if expected is not None and expected != found:
        raise Fault(f"{found} rows were loaded of {expected}: {run.stderr}")
    return True


def fuzz(binary, url, seed, files, directory):
    """Loads `files` damaged files of each format. Returns how many were kept; raises `Fault`."""
    rng = random.Random(seed)
    kept = dict.fromkeys(FORMATS, 0)
    connection = dbapi.connect(url, db_kwargs={"username": "fuzz", "password": ""}, autocommit=True)
    with connection, connection.cursor() as cursor:
        for extension, write in FORMATS.items():
            content = write(table(rng))
            path = pathlib.Path(directory) / f"damaged.{extension}"
            for number in range(files + 1):
                # The first one is whole.
                path.write_bytes(damage(rng, content) if number else content)
                try:
                    was_kept = check(binary, url, path, extension, cursor)
                    if not number and not was_kept:
                        raise Fault("a file without damage was refused")
                except (Fault, subprocess.TimeoutExpired) as fault:
                    raise Fault(f"seed {seed}, {extension}, file {number} ({path}): {fault}") from None
                kept[extension] += was_kept
    return kept


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="plexus", help="the program that loads")
    parser.add_argument("--url", default="grpc://127.0.0.1:7070", help="a node of the cluster")
    parser.add_argument("--seed", type=int, default=None, help="seed of the damage; random if not given")
    parser.add_argument("--files", type=int, default=300, help="how many files of each format")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    directory = tempfile.mkdtemp()
    try:
        kept = fuzz(args.binary, args.url, seed, args.files, directory)
    except Fault as fault:
        print(fault)
        return 1
    for extension, count in kept.items():
        print(f"{extension}: {count} of {args.files + 1} files kept, the others refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
