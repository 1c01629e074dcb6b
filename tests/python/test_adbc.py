"""The server through the ADBC driver `adbc_driver_flightsql`."""

import datetime
import decimal
import os
import threading
import time

import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager
import pyarrow as pa
import pytest

AUTOCOMMIT = {"autocommit": True}


@pytest.fixture
def connection(uri):
    options = {"username": "test", "password": "secret"}
    with dbapi.connect(uri, db_kwargs=options, **AUTOCOMMIT) as connection:
        yield connection


@pytest.fixture
def cursor(connection):
    with connection.cursor() as cursor:
        yield cursor


def test_without_a_user(uri):
    with dbapi.connect(uri, **AUTOCOMMIT) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 + 1")
        assert cursor.fetchall() == [(2,)]


def test_without_autocommit_rows_are_visible_after_the_commit_only(uri):
    with dbapi.connect(uri) as connection, connection.cursor() as cursor:
        # DDL is allowed while the transaction has no changes.
        cursor.execute("CREATE TABLE adbc_transactions (id BIGINT PRIMARY KEY, name VARCHAR)")
        cursor.execute("INSERT INTO adbc_transactions VALUES (1, 'one')")
        cursor.executemany("INSERT INTO adbc_transactions VALUES (?, ?)", [(2, "two"), (3, "three")])
        cursor.execute("INSERT INTO adbc_transactions VALUES (4, 'four')")
        cursor.execute("UPDATE adbc_transactions SET name = upper(name) WHERE id = 3")
        cursor.execute("SELECT id, name FROM adbc_transactions ORDER BY id")
        assert cursor.fetchall() == [(1, "one"), (2, "two"), (3, "THREE"), (4, "four")]
        with dbapi.connect(uri, **AUTOCOMMIT) as other, other.cursor() as reader:
            reader.execute("SELECT count(*) FROM adbc_transactions")
            assert reader.fetchone() == (0,)
            connection.commit()
            reader.execute("SELECT count(*) FROM adbc_transactions")
            assert reader.fetchone() == (4,)
        cursor.execute("DELETE FROM adbc_transactions")
        connection.rollback()
        cursor.execute("SELECT count(*) FROM adbc_transactions")
        assert cursor.fetchone() == (4,)
        connection.rollback()
        cursor.execute("DROP TABLE adbc_transactions")


def test_returning(cursor):
    cursor.execute("CREATE TABLE adbc_returning (id BIGINT, name VARCHAR)")
    cursor.execute("INSERT INTO adbc_returning VALUES (?, ?) RETURNING id + 1 AS next, name", (1, "one"))
    assert cursor.fetchall() == [(2, "one")]
    cursor.execute("DELETE FROM adbc_returning RETURNING *")
    assert cursor.fetchall() == [(1, "one")]
    cursor.execute("DROP TABLE adbc_returning")


def test_maintenance_statements_report_their_effect(cursor):
    cursor.execute("CREATE TABLE adbc_maintained (id BIGINT, v BIGINT)")
    cursor.execute("INSERT INTO adbc_maintained SELECT value, value * 2 FROM generate_series(1, 20000)")
    cursor.execute("DELETE FROM adbc_maintained WHERE id % 4 = 0")
    cursor.execute("SELECT max(version) FROM plexus.commits")
    [(version,)] = cursor.fetchall()
    cursor.execute("OPTIMIZE adbc_maintained ZORDER BY (v, id)")
    assert [column[0] for column in cursor.description] == [
        "rows", "files_before", "files_after", "bytes_before", "bytes_after",
    ]
    [(rows, _, _, before, after)] = cursor.fetchall()
    assert rows == 15000 and before > 0 and after > 0
    cursor.execute("CHECK TABLE adbc_maintained")
    assert all(damaged == 0 and error is None for _, _, _, damaged, _, error in cursor.fetchall())
    cursor.execute("DELETE FROM adbc_maintained")
    cursor.execute(f"RESTORE TABLE adbc_maintained TO VERSION {version}")
    assert cursor.rowcount == 15000
    cursor.execute("VACUUM adbc_maintained RETAIN 0 seconds")
    [(name, oldest, segments, size)] = cursor.fetchall()
    assert name == "public.adbc_maintained" and oldest > version and segments > 0 and size > 0
    with pytest.raises(dbapi.Error, match="was vacuumed"):
        cursor.execute(f"SELECT * FROM adbc_maintained VERSION AS OF {version}")
    cursor.execute("SELECT sum(v) FROM adbc_maintained")
    assert cursor.fetchall() == [(sum(2 * i for i in range(1, 20001) if i % 4),)]
    cursor.execute("DROP TABLE adbc_maintained")


def test_searches_take_parameters(cursor):
    cursor.execute("CREATE TABLE papers (id BIGINT PRIMARY KEY, body VARCHAR, v VECTOR(3))")
    rows = [(1, "a swept wing", [1.0, 0.0, 0.0]), (2, "heat", [0.0, 1.0, 0.0]), (3, "a wing", [0.9, 0.1, 0.0])]
    for id, body, vector in rows:
        cursor.execute("INSERT INTO papers VALUES (?, ?, ?)", (id, body, vector))
    ids = lambda: [row[0] for row in cursor.fetchall()]
    cursor.execute("SELECT id FROM vector_search(papers, v, ?, 2)", ([1.0, 0.0, 0.0],))
    assert ids() == [1, 3]
    # A vector as a fixed-size list.
    vector = pa.array([[0.0, 1.0, 0.0]], type=pa.list_(pa.float32(), 3))
    cursor.execute("SELECT id FROM papers ORDER BY v <=> ? LIMIT 1", pa.record_batch([vector], names=["1"]))
    assert ids() == [2]
    cursor.execute("SELECT id FROM text_search(papers, ?, 5, filter => ?)", ("wing", "id > 1"))
    assert ids() == [3]
    cursor.execute("SELECT id FROM hybrid_search(papers, ?, ?, 1)", ("swept", [1.0, 0.0, 0.0]))
    assert ids() == [1]
    cursor.execute("SELECT _query, id FROM vector_search(papers, v, queries => ?, k => 1)", ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],))
    assert cursor.fetchall() == [(1, 2), (2, 1)]
    pages, cursor_text = [], ""
    for _ in range(3):
        cursor.execute("SELECT id, _cursor FROM vector_search(papers, v, ?, 1, search_after => ?)", ([1.0, 0.0, 0.0], cursor_text))
        (id, cursor_text), = cursor.fetchall()
        pages.append(id)
    assert pages == [1, 3, 2]
    with pytest.raises(dbapi.Error, match="a cursor of another search"):
        cursor.execute("SELECT id FROM vector_search(papers, v, ?, 1, search_after => ?)", ([0.0, 1.0, 0.0], cursor_text))
        cursor.fetchall()
    with pytest.raises(dbapi.Error, match="2 components"):
        cursor.execute("SELECT id FROM vector_search(papers, v, ?, 2)", ([1.0, 0.0],))
        cursor.fetchall()
    cursor.execute("DROP TABLE papers")


def test_definition_and_rows(cursor):
    cursor.execute("CREATE TABLE adbc_rows (id BIGINT, name VARCHAR)")
    cursor.execute("INSERT INTO adbc_rows VALUES (1, 'one'), (2, 'two')")
    assert cursor.rowcount == 2
    cursor.execute("SELECT name FROM adbc_rows ORDER BY id DESC")
    assert cursor.fetchall() == [("two",), ("one",)]
    cursor.execute("DROP TABLE adbc_rows")
    with pytest.raises(dbapi.Error):
        cursor.execute("SELECT * FROM adbc_rows")


def test_parameters(cursor):
    cursor.execute("SELECT ? + 1 AS n, upper(?) AS t", (41, "abc"))
    assert cursor.fetchall() == [(42, "ABC")]
    cursor.execute("SELECT count(*) FROM orders WHERE o_orderkey <= $1", (100,))
    (few,) = cursor.fetchone()
    cursor.execute("SELECT count(*) FROM orders WHERE o_orderkey <= $1", (1000,))
    (many,) = cursor.fetchone()
    assert 0 < few < many


def test_instants_as_parameters_are_in_the_zone_of_the_session(cursor):
    at = lambda hour: datetime.datetime(2024, 7, 1, hour, tzinfo=datetime.timezone.utc)
    cursor.execute("CREATE TABLE adbc_zones (id INT PRIMARY KEY, n TIMESTAMP(6), z TIMESTAMP(6) WITH TIME ZONE, d DATE)")
    cursor.execute("INSERT INTO adbc_zones VALUES (1, '2024-07-01 08:00:00', '2024-07-01 12:00:00Z', '2024-06-30')")
    cursor.execute("SET time_zone = 'America/New_York'")
    cursor.execute("SELECT n = ? FROM adbc_zones", (at(12),))
    assert cursor.fetchall() == [(True,)]
    cursor.execute("DELETE FROM adbc_zones WHERE n < ? RETURNING id", (at(10),))
    assert cursor.fetchall() == []
    cursor.execute("SELECT extract(hour FROM ?), CAST(? AS TIMESTAMP)", (at(2), at(2)))
    assert cursor.fetchall() == [(22, datetime.datetime(2024, 6, 30, 22))]
    # Inserts of one row and of many, and updates, store the same.
    cursor.execute("INSERT INTO adbc_zones (id, n, d) VALUES (2, ?, ?)", (at(2), at(2)))
    cursor.executemany("INSERT INTO adbc_zones (id, n, d) VALUES (?, ?, ?)", [(3, at(2), at(2)), (4, at(2), at(2))])
    cursor.execute("UPDATE adbc_zones SET n = ?, d = ? WHERE id = 1", (at(2), at(2)))
    cursor.execute("SELECT DISTINCT n, d FROM adbc_zones")
    assert cursor.fetchall() == [(datetime.datetime(2024, 6, 30, 22), datetime.date(2024, 6, 30))]
    cursor.execute("RESET time_zone")
    cursor.execute("DROP TABLE adbc_zones")


def test_insert_with_parameters_and_executemany(cursor):
    cursor.execute("CREATE TABLE adbc_many (id INT, name VARCHAR, score DOUBLE)")
    cursor.execute("INSERT INTO adbc_many VALUES (?, ?, ?)", (0, "zero", 0.5))
    rows = [(i, f"row {i}", i / 2) for i in range(1, 501)]
    cursor.executemany("INSERT INTO adbc_many VALUES (?, ?, ?)", rows)
    assert cursor.rowcount == 500
    cursor.execute("SELECT count(*), sum(id), max(name), sum(score) FROM adbc_many")
    assert cursor.fetchone() == (501, 125250, "zero", 62625.5)
    cursor.execute("DROP TABLE adbc_many")


def table_of(rows):
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "name": pa.array([f"name {i}" for i in range(rows)]),
            "value": pa.array([i * 0.5 for i in range(rows)]),
        }
    )


def test_ingest_in_all_modes(cursor):
    data = table_of(100_000)

    def count():
        cursor.execute("SELECT count(*) FROM adbc_ingested")
        return cursor.fetchone()[0]

    assert cursor.adbc_ingest("adbc_ingested", data, mode="create") == 100_000
    assert count() == 100_000
    with pytest.raises(dbapi.Error):
        cursor.adbc_ingest("adbc_ingested", data, mode="create")
    assert count() == 100_000
    cursor.adbc_ingest("adbc_ingested", data, mode="append")
    assert count() == 200_000
    cursor.adbc_ingest("adbc_ingested", data.slice(0, 10), mode="create_append")
    assert count() == 200_010
    cursor.adbc_ingest("adbc_ingested", data.slice(0, 7), mode="replace")
    assert count() == 7
    cursor.execute("DROP TABLE adbc_ingested")
    with pytest.raises(dbapi.Error):
        cursor.adbc_ingest("adbc_ingested", data, mode="append")


def test_ingest_that_fails_leaves_nothing(cursor):
    cursor.execute("CREATE TABLE adbc_strict (id BIGINT NOT NULL)")
    batches = [pa.table({"id": pa.array(range(1000), pa.int64())}), pa.table({"id": pa.array([1, None], pa.int64())})]
    with pytest.raises(dbapi.Error, match="id"):
        cursor.adbc_ingest("adbc_strict", pa.concat_tables(batches), mode="append")
    cursor.execute("SELECT count(*) FROM adbc_strict")
    assert cursor.fetchone() == (0,)
    cursor.execute("DROP TABLE adbc_strict")


def test_ingest_whose_reader_fails_leaves_nothing(cursor):
    schema = pa.schema({"a": pa.int64()})

    def batches(count):
        for _ in range(count):
            yield pa.record_batch({"a": pa.array(range(100), pa.int64())}, schema)
        raise RuntimeError("the reader failed")

    for count in range(1, 31):
        with pytest.raises(Exception, match="the reader failed"):
            reader = pa.RecordBatchReader.from_batches(schema, batches(count))
            cursor.adbc_ingest("cut_short", reader, mode="create")
    time.sleep(0.2)
    cursor.execute("SELECT count(*) FROM information_schema.tables WHERE table_name = 'cut_short'")
    assert cursor.fetchone() == (0,)


def test_vector_of_other_dimensions_is_refused(cursor):
    cursor.execute("CREATE TABLE adbc_vectors (id BIGINT, e VECTOR(3))")
    for values in ([1.0, 2.0], [1.0, 2.0, 3.0, 4.0]):
        data = pa.table({"id": [1], "e": pa.array([values], pa.list_(pa.float32()))})
        with pytest.raises(dbapi.Error, match='"e".*3'):
            cursor.adbc_ingest("adbc_vectors", data, mode="append")
    data = pa.table({"id": [1], "e": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float64()))})
    assert cursor.adbc_ingest("adbc_vectors", data, mode="append") == 1
    cursor.execute("SELECT e FROM adbc_vectors")
    assert cursor.fetchall() == [([1.0, 2.0, 3.0],)]
    cursor.execute("DROP TABLE adbc_vectors")


def test_ingest_of_another_type_is_refused_by_name(cursor):
    cursor.execute("CREATE TABLE adbc_typed (id BIGINT, v INT)")
    for wrong in [pa.array([1.5], pa.float64()), pa.array(["1"]), pa.array([2**40], pa.int64())]:
        with pytest.raises(dbapi.Error, match='"v"'):
            cursor.adbc_ingest("adbc_typed", pa.table({"id": pa.array([1]), "v": wrong}), mode="append")
    with pytest.raises(dbapi.Error, match="other"):
        cursor.adbc_ingest("adbc_typed", pa.table({"other": pa.array([1])}), mode="append")
    cursor.execute("SELECT count(*) FROM adbc_typed")
    assert cursor.fetchone() == (0,)
    cursor.execute("DROP TABLE adbc_typed")


def test_objects_and_schemas(connection):
    objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    (catalog,) = [c for c in objects if c["catalog_name"] == "plexus"]
    schemas = {s["db_schema_name"]: s["db_schema_tables"] for s in catalog["catalog_db_schemas"]}
    tables = {t["table_name"]: t for t in schemas["public"]}
    assert "lineitem" in tables and "nodes" in {t["table_name"] for t in schemas["plexus"]}
    columns = [c["column_name"] for c in tables["nation"]["table_columns"]]
    assert columns == ["n_nationkey", "n_name", "n_regionkey", "n_comment"]
    schema = connection.adbc_get_table_schema("region")
    assert schema.field("r_regionkey").type == pa.int64()
    assert schema.field("r_name").type == pa.string()
    with pytest.raises(dbapi.Error):
        connection.adbc_get_table_schema("nowhere")
    assert connection.adbc_get_table_types() == ["SYSTEM TABLE", "TABLE"]
    assert connection.adbc_get_info()["vendor_name"] == "Plexus"


def test_objects_are_filtered(connection):
    def tables(**filters):
        found = connection.adbc_get_objects(depth="tables", **filters).read_all().to_pylist()
        schemas = [s for c in found for s in c["catalog_db_schemas"] or []]
        return {t["table_name"] for s in schemas for t in s["db_schema_tables"] or []}

    assert tables(table_name_filter="line%") == {"lineitem"}
    assert tables(db_schema_filter="plexus") == {"commits", "indexes", "nodes", "queries", "segments", "shards",
                                                  "storage", "tables"}
    assert "lineitem" not in tables(table_types_filter=["SYSTEM TABLE"])


def test_prepared_statements_report_their_parameters(cursor):
    schema = cursor.adbc_prepare("SELECT o_comment FROM orders WHERE o_orderkey = ? AND o_totalprice > ?")
    assert schema.types == [pa.int64(), pa.decimal128(15, 2)]
    cursor.execute("CREATE TABLE adbc_prepared (id BIGINT, name VARCHAR)")
    schema = cursor.adbc_prepare("INSERT INTO adbc_prepared VALUES (?, ?)")
    assert schema.types[0] == pa.int64()
    cursor.execute("DROP TABLE adbc_prepared")


def test_a_row_larger_than_a_message(cursor):
    cursor.execute("SELECT repeat('z', 6000000) AS text")
    assert len(cursor.fetchone()[0]) == 6_000_000


def test_large_result(cursor):
    cursor.execute("SELECT value, repeat('x', 100) AS text FROM generate_series(1, 500000)")
    result = cursor.fetch_arrow_table()
    assert result.num_rows == 500_000
    assert result.column("text")[499_999].as_py() == "x" * 100


def test_wide_rows_stay_below_message_limits(cursor):
    cursor.execute("SELECT value, repeat('y', 100000) AS text FROM generate_series(1, 200)")
    assert cursor.fetch_arrow_table().num_rows == 200


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_cancel(uri, cluster):
    with dbapi.connect(uri, **AUTOCOMMIT) as connection, connection.cursor() as cursor:
        slow = "SELECT count(*) FROM generate_series(1, 100000000) a CROSS JOIN generate_series(1, 1000) b WHERE a.value % 7 = b.value"
        timer = threading.Timer(1.0, cursor.adbc_cancel)
        timer.start()
        started = time.monotonic()
        with pytest.raises(adbc_driver_manager.Error):
            cursor.execute(slow)
            cursor.fetchall()
        assert time.monotonic() - started < 30
        timer.join()
    # The server must have stopped working on it.
    pids = [node["pid"] for node in cluster["nodes"]]
    time.sleep(1)
    before = sum(cpu_seconds(pid) for pid in pids)
    time.sleep(2)
    spent = sum(cpu_seconds(pid) for pid in pids) - before
    assert spent < 1, f"{spent} s of work in 2 s after the query was cancelled"


def test_errors_have_kinds_and_positions(cursor):
    with pytest.raises(dbapi.ProgrammingError, match="Line: 1, Column: 8"):
        cursor.execute("SELECT nothing FROM region")
    with pytest.raises(dbapi.Error, match="exists already"):
        cursor.execute("CREATE TABLE region (a INT)")


def test_session_options(uri):
    options = {"username": "test", "password": "secret"}
    with dbapi.connect(uri, db_kwargs=options, **AUTOCOMMIT) as connection:
        assert connection.adbc_current_catalog == "plexus"
        assert connection.adbc_current_db_schema == "public"
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS elsewhere")
            cursor.execute("CREATE TABLE IF NOT EXISTS elsewhere.only_there (a INT)")
        connection.adbc_current_db_schema = "elsewhere"
        assert connection.adbc_current_db_schema == "elsewhere"
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM only_there")
            assert cursor.fetchone() == (0,)
            cursor.execute("DROP TABLE elsewhere.only_there")
            cursor.execute("DROP SCHEMA elsewhere")


def test_string_views_on_request(uri):
    options = {"username": "test", "password": "secret"}
    with dbapi.connect(uri, db_kwargs=options, **AUTOCOMMIT) as connection, connection.cursor() as cursor:
        for wanted, kind in (("true", pa.string_view()), ("false", pa.string())):
            cursor.execute(f"SET plexus.string_view = {wanted}")
            cursor.execute("SELECT r_name FROM region ORDER BY 1")
            table = cursor.fetch_arrow_table()
            assert table.schema.field("r_name").type == kind
            assert table.column(0)[0].as_py() == "AFRICA"
        cursor.execute("CREATE TABLE adbc_views (t VARCHAR)")
        cursor.execute("INSERT INTO adbc_views VALUES ('a')")
        cursor.execute("SET plexus.string_view = true")
        cursor.execute("SELECT upper(t) FROM adbc_views")
        assert cursor.fetchall() == [("A",)]
        cursor.execute("DROP TABLE adbc_views")
        with pytest.raises(dbapi.Error, match="plexus.string_view"):
            cursor.execute("SET plexus.string_view = maybe")


TYPES = {
    "bool": pa.array([True, None, False], pa.bool_()),
    "i8": pa.array([-128, None, 127], pa.int8()),
    "i16": pa.array([-32768, None, 32767], pa.int16()),
    "i32": pa.array([-(2**31), None, 2**31 - 1], pa.int32()),
    "i64": pa.array([-(2**63), None, 2**63 - 1], pa.int64()),
    "u8": pa.array([0, None, 255], pa.uint8()),
    "u16": pa.array([0, None, 65535], pa.uint16()),
    "u32": pa.array([0, None, 2**32 - 1], pa.uint32()),
    "u64": pa.array([0, None, 2**64 - 1], pa.uint64()),
    "f16": pa.array([0.5, None, -2.0], pa.float16()),
    "f32": pa.array([0.5, None, -2.25], pa.float32()),
    "f64": pa.array([0.1, None, -1e300], pa.float64()),
    "utf8": pa.array(["", None, "zwölf"], pa.string()),
    "large_utf8": pa.array(["", None, "zwölf"], pa.large_string()),
    "binary": pa.array([b"", None, b"\x00\xff"], pa.binary()),
    "large_binary": pa.array([b"", None, b"\x00\xff"], pa.large_binary()),
    "date32": pa.array([datetime.date(1, 1, 1), None, datetime.date(9999, 12, 31)], pa.date32()),
    "date64": pa.array([datetime.date(1970, 1, 1), None, datetime.date(2024, 2, 29)], pa.date64()),
    "time32_s": pa.array([datetime.time(0), None, datetime.time(23, 59, 59)], pa.time32("s")),
    "time32_ms": pa.array([datetime.time(0), None, datetime.time(23, 59, 59)], pa.time32("ms")),
    "time64_us": pa.array([datetime.time(0), None, datetime.time(23, 59, 59, 999999)], pa.time64("us")),
    "time64_ns": pa.array([0, None, 86399999999999], pa.time64("ns")),
    "ts_s": pa.array([datetime.datetime(1960, 1, 1), None, datetime.datetime(2030, 1, 1)], pa.timestamp("s")),
    "ts_ms": pa.array([datetime.datetime(1960, 1, 1), None, datetime.datetime(2030, 1, 1)], pa.timestamp("ms")),
    "ts_us_utc": pa.array([0, None, 1], pa.timestamp("us", "UTC")),
    "ts_ns": pa.array([0, None, -1], pa.timestamp("ns")),
    "decimal128": pa.array([decimal.Decimal("-1.25"), None, decimal.Decimal("99999.99")], pa.decimal128(10, 2)),
    "decimal256": pa.array([decimal.Decimal("-1.25"), None, decimal.Decimal("9" * 40 + ".99")], pa.decimal256(50, 2)),
    "null": pa.nulls(3),
    "decimal32": pa.array([decimal.Decimal("-1.25"), None, decimal.Decimal("99999.99")], pa.decimal32(7, 2)),
    "decimal64": pa.array([decimal.Decimal("-1.25"), None, decimal.Decimal("9" * 15 + ".99")], pa.decimal64(17, 2)),
    "list": pa.array([[1, None], None, []], pa.list_(pa.int32())),
    "large_list": pa.array([["a"], None, []], pa.large_list(pa.string())),
    "fixed_list": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
    "list_view": pa.array([[1, None], None, []], pa.list_view(pa.int32())),
    "map": pa.array([[("a", 1), ("b", None)], None, []], pa.map_(pa.string(), pa.int64())),
    "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}], pa.struct([("x", pa.int64()), ("y", pa.string())])),
    "list_of_struct": pa.array([[{"x": 1}], None, []], pa.list_(pa.struct([("x", pa.int64())]))),
}


@pytest.mark.parametrize("rows,task_bytes", [(3, 2**40), (30_000, 2**40), (30_000, 1)], ids=["inline", "files", "distributed"])
def test_values_of_every_type_are_returned_unchanged(cursor, rows, task_bytes):
    """Few rows become an inline segment and many become files, which one node or all nodes read."""
    cursor.execute(f"SET plexus.task_bytes = {task_bytes}")
    data = pa.table({name: pa.concat_arrays([array] * (rows // 3)) for name, array in TYPES.items()})
    data = data.append_column("n", pa.array(range(data.num_rows), pa.int64()))
    cursor.adbc_ingest("adbc_types", data, mode="replace")
    cursor.execute("SELECT * FROM adbc_types ORDER BY n")
    back = cursor.fetch_arrow_table()
    for name, array in TYPES.items():
        # Flight SQL results have no large lists and list views: their values come back as lists. A column of
        # nulls alone has a type only if it is given one, and becomes text.
        wanted = data.column(name).combine_chunks()
        if pa.types.is_null(wanted.type):
            wanted = wanted.cast(pa.string())
        found = back.column(name).combine_chunks()
        plain_list = pa.types.is_large_list(wanted.type) or pa.types.is_list_view(wanted.type)
        if plain_list and pa.types.is_list(found.type):
            found, wanted = (pa.array(array.to_pylist(), found.type) for array in (found, wanted))
        assert found.type == wanted.type or found.type.equals(wanted.type), f"{name}: {found.type} is not {wanted.type}"
        assert found.equals(wanted), name
    cursor.execute("DROP TABLE adbc_types")


def test_times_of_another_unit_are_converted(cursor):
    """A datetime of Python has microseconds, a TIMESTAMP of SQL has nanoseconds."""
    cursor.execute("CREATE TABLE adbc_times (at TIMESTAMP, day DATE, amount DECIMAL(10, 2))")
    moment = datetime.datetime(2024, 2, 29, 12, 30, 0, 123456)
    row = (moment, moment.date(), decimal.Decimal("1.25"))
    cursor.execute("INSERT INTO adbc_times VALUES (?, ?, ?)", row)
    cursor.executemany("INSERT INTO adbc_times VALUES (?, ?, ?)", [row, row])
    data = pa.table({"at": pa.array([moment], pa.timestamp("us")), "day": [moment.date()], "amount": pa.array([1.25])})
    cursor.adbc_ingest("adbc_times", data, mode="append")
    cursor.execute("SELECT count(*), count(DISTINCT at), min(amount), max(day) FROM adbc_times")
    assert cursor.fetchone() == (4, 1, decimal.Decimal("1.25"), moment.date())
    with pytest.raises(dbapi.Error, match="amount"):
        cursor.adbc_ingest("adbc_times", data.set_column(2, "amount", pa.array([1.255])), mode="append")
    cursor.execute("DROP TABLE adbc_times")


def test_executemany_without_rows_does_nothing(cursor):
    cursor.execute("CREATE TABLE adbc_none (id BIGINT)")
    cursor.executemany("INSERT INTO adbc_none VALUES (?)", pa.table({"0": pa.array([], pa.int64())}))
    cursor.executemany("INSERT INTO adbc_none SELECT ?", pa.table({"0": pa.array([], pa.int64())}))
    cursor.execute("SELECT count(*) FROM adbc_none")
    assert cursor.fetchone() == (0,)
    cursor.execute("DROP TABLE adbc_none")


def test_executescript(cursor):
    cursor.executescript("CREATE TABLE adbc_script (id BIGINT); INSERT INTO adbc_script VALUES (1), (2)")
    cursor.execute("SELECT count(*) FROM adbc_script")
    assert cursor.fetchone() == (2,)
    cursor.execute("DROP TABLE adbc_script")


def test_long_statements(cursor):
    """A statement may be as long as a message to a client, or half as long when it returns rows."""
    cursor.execute("CREATE TABLE adbc_long (t VARCHAR)")
    cursor.execute("INSERT INTO adbc_long VALUES ('" + "x" * 2_500_000 + "')")
    cursor.execute("SELECT length(t) FROM adbc_long")
    assert cursor.fetchone() == (2_500_000,)
    with pytest.raises(dbapi.Error, match="ticket"):
        cursor.execute("SELECT '" + "x" * 5_000_000 + "'")
    with pytest.raises(dbapi.Error, match="bytes in all"):
        cursor.execute("SELECT CAST('" + "x" * 100_000 + "' AS INT)")
        cursor.fetchall()
    cursor.execute("DROP TABLE adbc_long")


def test_unsupported_type_is_named(cursor):
    data = pa.table({"span": pa.array([1], pa.duration("s"))})
    with pytest.raises(dbapi.Error, match="span"):
        cursor.adbc_ingest("adbc_unsupported", data, mode="create")


def test_executemany_is_one_commit(cursor):
    cursor.execute("CREATE TABLE adbc_one (id INT PRIMARY KEY, n INT)")
    for statement, rows, wrong in [
        ("INSERT INTO adbc_one VALUES (?, 10 / ?)", [(10, 1), (11, 2), (12, 0)], "row 3 of the parameters"),
        ("INSERT INTO adbc_one (id, n) VALUES (?, ?)", [(20, 1), (21, 2), (20, 3)], "20"),
    ]:
        with pytest.raises(dbapi.Error, match=wrong):
            cursor.executemany(statement, rows)
        cursor.execute("SELECT count(*) FROM adbc_one")
        assert cursor.fetchone() == (0,)
    cursor.executemany("INSERT INTO adbc_one VALUES (?, 10 / ?)", [(10, 1), (11, 2)])
    cursor.executemany("UPDATE adbc_one SET n = n + ? WHERE id = ?", [(1, 10), (1, 11), (5, 10)])
    assert cursor.rowcount == 3
    cursor.execute("SELECT id, n FROM adbc_one ORDER BY id")
    assert cursor.fetchall() == [(10, 16), (11, 6)]
    cursor.execute("DROP TABLE adbc_one")


def test_times_without_a_zone_are_clocks_of_the_session(cursor):
    """Parameters mean what literals do, wherever they stand."""
    cursor.execute("CREATE TABLE adbc_clocks (id INT PRIMARY KEY, z TIMESTAMP(6) WITH TIME ZONE)")
    cursor.execute("SET TIME ZONE 'America/New_York'")
    noon = datetime.datetime(2025, 7, 1, 12)
    cursor.execute("INSERT INTO adbc_clocks VALUES (1, TIMESTAMP '2025-07-01 12:00:00')")
    cursor.execute("INSERT INTO adbc_clocks VALUES (2, ?)", (noon,))
    cursor.execute("INSERT INTO adbc_clocks SELECT 3, ?", (noon,))
    cursor.execute(
        "INSERT INTO adbc_clocks VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET z = excluded.z", (noon,)
    )
    for condition, value in [
        ("z = ?", noon),
        ("z >= ?", noon),
        ("z BETWEEN ? AND now()", datetime.date(2025, 7, 1)),
        ("z > ?", datetime.date(2025, 7, 1)),
        ("z < ?", datetime.date(2025, 7, 2)),
    ]:
        cursor.execute(f"SELECT count(*) FROM adbc_clocks WHERE {condition}", (value,))
        assert cursor.fetchone() == (3,), condition
    instant = "z AT TIME ZONE 'UTC' = TIMESTAMP '2025-07-01 16:00:00'"
    cursor.execute(f"SELECT count(*) FROM adbc_clocks WHERE {instant}")
    assert cursor.fetchone() == (3,)
    cursor.execute("DELETE FROM adbc_clocks WHERE z = ?", (noon,))
    cursor.execute("SELECT count(*) FROM adbc_clocks")
    assert cursor.fetchone() == (0,)
    cursor.execute("SET TIME ZONE 'UTC'")


@pytest.mark.parametrize("key", ["", " PRIMARY KEY"], ids=["plain", "keyed"])
def test_ingest_goes_on_while_indexes_come_and_go(connection, uri, key):
    """An index changes nothing of what rows have to be. 40 rows are a segment in the log, 60,000 are files."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE adbc_indexed (id BIGINT{key}, body VARCHAR)")
        rows, stop = [40, 60_000] * 4, threading.Event()

        def define():
            with dbapi.connect(uri, **AUTOCOMMIT) as other, other.cursor() as definer:
                while not stop.wait(0.3):
                    definer.execute("CREATE INDEX adbc_body ON adbc_indexed USING text (body)")
                    definer.execute("DROP INDEX adbc_body")

        definitions = threading.Thread(target=define)
        definitions.start()
        try:
            for number, count in enumerate(rows):
                ids = range(number * 100_000, number * 100_000 + count)
                data = pa.table({"id": pa.array(ids, pa.int64()), "body": [f"row {i}" for i in ids]})
                cursor.adbc_ingest("adbc_indexed", data, mode="append")
        finally:
            stop.set()
            definitions.join()
        cursor.execute("SELECT count(*), count(DISTINCT id) FROM adbc_indexed")
        assert cursor.fetchone() == (sum(rows), sum(rows))
        cursor.execute("DROP TABLE adbc_indexed")
