"""Plain Arrow Flight, with `pyarrow.flight`."""

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
    with pytest.raises(pa.ArrowInvalid, match="nowhere"):
        client.get_flight_info(flight.FlightDescriptor.for_path("nowhere"))
    with pytest.raises(Exception, match="(?i)ticket|decode|invalid|handle|not found"):
        client.do_get(flight.Ticket(b"\xff\xfe\x00garbage")).read_all()


def test_actions_are_what_works(client):
    names = {a.type for a in client.list_actions()}
    assert "CreatePreparedStatement" in names and "BeginTransaction" not in names
