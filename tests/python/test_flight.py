"""Plain Arrow Flight, with `pyarrow.flight`."""

import concurrent.futures
import time

import pyarrow as pa
import pyarrow.flight as flight
import pytest


@pytest.fixture
def client(uri):
    with flight.FlightClient(uri) as client:
        yield client


def put(client, path, table):
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(*path), table.schema)
    with writer:
        writer.write_table(table)


def test_put_and_get_by_path(client):
    table = pa.table({"a": pa.array(range(10_000), pa.int64()), "b": pa.array([str(i) for i in range(10_000)])})
    put(client, ["flight_table"], table)
    put(client, ["public", "flight_table"], table)
    info = client.get_flight_info(flight.FlightDescriptor.for_path("flight_table"))
    assert len(info.endpoints) == 1 and info.endpoints[0].locations == []
    assert info.schema == table.schema
    assert client.do_get(info.endpoints[0].ticket).read_all().num_rows == 20_000
    assert client.do_get(flight.Ticket(b"public.flight_table")).read_all().num_rows == 20_000


def test_schema_and_list(client):
    schema = client.get_schema(flight.FlightDescriptor.for_path("public", "nation")).schema
    assert schema.names == ["n_nationkey", "n_name", "n_regionkey", "n_comment"]
    paths = [f.descriptor.path for f in client.list_flights()]
    assert [b"public", b"nation"] in paths


def test_unknown_table_and_bad_ticket(client):
    with pytest.raises(Exception, match="nowhere"):
        client.get_flight_info(flight.FlightDescriptor.for_path("nowhere"))
    with pytest.raises(Exception, match="(?i)ticket|decode|invalid|handle|not found"):
        client.do_get(flight.Ticket(b"\xff\xfe\x00garbage")).read_all()


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, payload):
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def command(name, payload=b""):
    """A Flight SQL command, as drivers pack it."""
    url = b"type.googleapis.com/arrow.flight.protocol.sql." + name.encode()
    return field(1, url) + field(2, payload)


def rows_of(client, packed):
    info = client.get_flight_info(flight.FlightDescriptor.for_command(packed))
    table = client.do_get(info.endpoints[0].ticket).read_all()
    assert info.schema.equals(table.schema), "the schema of the info is not that of the rows"
    return table


def test_type_info_and_keys(client):
    types = rows_of(client, command("CommandGetXdbcTypeInfo")).to_pydict()
    assert {"BIGINT", "VARCHAR", "TIMESTAMP", "DECIMAL"} <= set(types["type_name"])
    keys = rows_of(client, command("CommandGetPrimaryKeys", field(3, b"partsupp"))).to_pydict()
    assert keys["column_name"] == ["ps_partkey", "ps_suppkey"]
    assert keys["key_sequence"] == [1, 2]
    assert rows_of(client, command("CommandGetImportedKeys", field(3, b"partsupp"))).num_rows == 0


def test_schema_of_a_command(client):
    query = command("CommandStatementQuery", field(1, b"SELECT 1 AS a, 'x' AS b"))
    schema = client.get_schema(flight.FlightDescriptor.for_command(query)).schema
    assert schema.names == ["a", "b"] and schema.field("b").type == pa.string()
    catalogs = client.get_schema(flight.FlightDescriptor.for_command(command("CommandGetCatalogs"))).schema
    assert catalogs.names == ["catalog_name"]


def test_a_prepared_handle_works_on_every_node(cluster):
    """A handle contains the whole statement, so that every node can execute it."""
    first, second = ("grpc://" + cluster["nodes"][n]["flight"] for n in (0, 1))
    with flight.FlightClient(first) as client:
        request = command("ActionCreatePreparedStatementRequest", field(1, b"SELECT count(*) AS n FROM nation"))
        (result,) = client.do_action(flight.Action("CreatePreparedStatement", request))
    # An Any around { 1: handle, 2: schema, 3: schema }: the handle is the first field of its value.
    body = result.body.to_pybytes()
    value = read_field(body, 2)
    handle = read_field(value, 1)
    with flight.FlightClient(second) as client:
        table = rows_of(client, command("CommandPreparedStatementQuery", field(1, handle)))
        assert table.to_pydict() == {"n": [25]}


def read_field(message, wanted):
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = number()
        length = number()
        if key >> 3 == wanted:
            return message[at : at + length]
        at += length
    raise AssertionError(f"no field {wanted}")


def test_actions_on_a_flight_info(client):
    info = client.get_flight_info(flight.FlightDescriptor.for_path("nation"))
    (cancelled,) = client.do_action(flight.Action("CancelFlightInfo", field(1, info.serialize())))
    # Status 3: not cancellable, since no query has begun.
    assert cancelled.body.to_pybytes() == b"\x08\x03"
    endpoint = info.endpoints[0].serialize()
    (renewed,) = client.do_action(flight.Action("RenewFlightEndpoint", field(1, endpoint)))
    assert flight.FlightEndpoint.deserialize(renewed.body.to_pybytes()).ticket == info.endpoints[0].ticket


ENDLESS = b"""SELECT count(*) FROM generate_series(1, 3000000) a(x)
    JOIN generate_series(1, 3000000) b(y) ON a.x + b.y < 0"""


@pytest.mark.parametrize("form", ["CancelFlightInfo", "CancelQuery"])
def test_a_query_ends_when_its_info_is_cancelled(cluster, form):
    """By another node than the one that runs it."""
    one, other = (flight.FlightClient("grpc://" + node["flight"]) for node in cluster["nodes"][:2])
    with one, other, concurrent.futures.ThreadPoolExecutor() as pool:
        query = command("CommandStatementQuery", field(1, ENDLESS))
        info = one.get_flight_info(flight.FlightDescriptor.for_command(query))
        running = pool.submit(lambda: one.do_get(info.endpoints[0].ticket).read_all())
        request = field(1, info.serialize())
        if form == "CancelQuery":
            request = command("ActionCancelQueryRequest", request)
        for _ in range(600):
            (result,) = other.do_action(flight.Action(form, request))
            if result.body.to_pybytes().endswith(b"\x08\x01"):
                break
            time.sleep(0.1)
        else:
            pytest.fail("the query was never found")
        with pytest.raises(flight.FlightCancelledError, match="was cancelled"):
            running.result(timeout=60)


def test_put_to_another_catalog_is_refused(client):
    with pytest.raises(Exception, match="elsewhere"):
        put(client, ["elsewhere", "public", "t"], pa.table({"a": [1]}))


def test_listed_actions(client):
    names = {a.type for a in client.list_actions()}
    assert {"CreatePreparedStatement", "BeginTransaction", "EndTransaction"} <= names


def test_a_client_that_ignores_the_bound_handle_gets_what_it_bound(client):
    request = command("ActionCreatePreparedStatementRequest", field(1, b"SELECT $1 + 1 AS next"))
    (result,) = client.do_action(flight.Action("CreatePreparedStatement", request))
    handle = read_field(read_field(result.body.to_pybytes(), 2), 1)
    query = command("CommandPreparedStatementQuery", field(1, handle))
    for value in (41, 6):
        parameters = pa.record_batch({"1": pa.array([value], pa.int64())})
        writer, reader = client.do_put(flight.FlightDescriptor.for_command(query), parameters.schema)
        with writer:
            writer.write_batch(parameters)
            writer.done_writing()
            reader.read()
        assert rows_of(client, query).to_pydict() == {"next": [value + 1]}
    list(client.do_action(flight.Action("ClosePreparedStatement", command(
        "ActionClosePreparedStatementRequest", field(1, handle)))))
    with pytest.raises(Exception, match="parameter"):
        rows_of(client, query)


def test_a_ticket_has_the_settings_of_its_session_on_another_node(cluster):
    def field(number, content):
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    def query(sql):
        url = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
        return flight.FlightDescriptor.for_command(field(1, url) + field(2, field(1, sql.encode())))

    one, other = (flight.FlightClient("grpc://" + node["flight"]) for node in cluster["nodes"][:2])
    with one, other:
        session = flight.FlightCallOptions(headers=[one.authenticate_basic_token("test", "secret")])
        one.get_flight_info(query("SET time_zone = 'Asia/Tokyo'"), session)
        info = one.get_flight_info(query("SELECT extract(hour FROM TIMESTAMPTZ '2024-01-01 00:00:00Z') AS h"), session)
        for client, options in [(one, session), (other, session), (other, flight.FlightCallOptions())]:
            assert client.do_get(info.endpoints[0].ticket, options).read_all().to_pylist() == [{"h": 9}]
