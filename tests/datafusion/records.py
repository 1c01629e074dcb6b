"""The records of sqllogictest files: statements and queries with what is expected of them."""

import dataclasses

# Conditions `skipif` and `onlyif` name the engine.
ENGINE = "DataFusion"
SORT_MODES = ("nosort", "rowsort", "valuesort")


@dataclasses.dataclass
class Record:
    """A statement or query with its expectation: `ok`, `error`, `count` or `rows`."""

    file: str
    line: int
    sql: str
    expect: str
    pattern: str = ""
    count: int = 0
    types: str = ""
    sort: str = "nosort"
    results: list = dataclasses.field(default_factory=list)
    hash_threshold: int = 0


class Parser:
    """Reads the records of a file and of the files that it includes."""

    def __init__(self):
        self.sort = "nosort"
        self.hash_threshold = 0

    def records(self, path, name):
        lines = enumerate(path.read_text().split("\n"), start=1)
        skip = False
        for number, line in lines:
            words = line.split()
            if not words or line.startswith("#"):
                continue
            match words:
                case ["halt"]:
                    return
                case ["include", pattern]:
                    for included in sorted(path.parent.glob(pattern)):
                        yield from self.records(included, f"{name}:{number}>{included.name}")
                case ["hash-threshold", threshold]:
                    self.hash_threshold = int(threshold)
                case ["control", "sortmode", mode]:
                    self.sort = mode
                case ["skipif", engine]:
                    skip |= engine.lower() == ENGINE.lower()
                case ["onlyif", engine]:
                    skip |= engine.lower() != ENGINE.lower()
                case ["statement" | "query", *_]:
                    record = self.record(name, number, words, lines)
                    if not skip:
                        yield record
                    skip = False
                case _:
                    raise ValueError(f"{name}:{number}: {line}")

    def record(self, name, number, words, lines):
        sql, has_results = [next(lines)[1]], False
        for _, line in lines:
            if not line:
                break
            if line == "----":
                has_results = True
                break
            sql.append(line)
        record = Record(name, number, "\n".join(sql), "rows", hash_threshold=self.hash_threshold)
        match words:
            case [_, "error", *pattern]:
                record.expect, record.pattern = "error", " ".join(pattern)
                if has_results:
                    record.pattern = "\n".join(multiline(lines))
            case ["statement", "ok", *_]:
                record.expect = "ok"
            case ["statement", "count", count]:
                record.expect, record.count = "count", int(count)
            case ["query", *rest]:
                record.types = rest[0] if rest else ""
                record.sort = rest[1] if len(rest) > 1 and rest[1] in SORT_MODES else self.sort
                if has_results:
                    record.results = list(until_empty(lines))
            case _:
                raise ValueError(f"{name}:{number}: {' '.join(words)}")
        return record


def until_empty(lines):
    for _, line in lines:
        if not line:
            return
        yield line.rstrip()


def multiline(lines):
    """The text of an error, which two empty lines end."""
    empty = False
    for _, line in lines:
        if not line and empty:
            return
        empty = not line
        yield line
