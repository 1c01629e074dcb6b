"""Connections and streams that do not do what they should."""

import socket
import struct
import time
import urllib.request

import pytest

from wire import outcome

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name, value):
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(stream, method=b"DoPut"):
    path = b"/arrow.flight.protocol.FlightService/" + method
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"x")]
    headers += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return frame(1, 4, stream, b"".join(header(*pair) for pair in headers))


def connect(address, greeting=PREFACE + frame(4, 0, 0, b"")):
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(greeting)
    return connection


def test_streams_that_announce_much(node):
    before = node.resident_mib()
    held = []
    for _ in range(20):
        connection = connect(node.flight)
        for stream in range(1, 201, 2):
            announced = b"\0" + struct.pack(">I", 255_000_000) + b"\x0a"
            connection.sendall(request(stream) + frame(0, 0, stream, announced))
        held.append(connection)
    time.sleep(2)
    assert node.resident_mib() < before + 200
    assert node.client().query("SELECT 1") > 0


@pytest.mark.parametrize("flood", ["reset", "settings", "continuation"])
def test_floods(node, flood):
    connection = connect(node.flight)
    connection.settimeout(5)
    began, stream = time.monotonic(), 1
    try:
        if flood == "continuation":
            connection.sendall(frame(1, 0, 1, header(b":method", b"POST")))
        while time.monotonic() - began < 5:
            if flood == "reset":
                streams = range(stream, stream + 200, 2)
                connection.sendall(b"".join(request(s) + frame(3, 0, s, struct.pack(">I", 8)) for s in streams))
                stream += 200
            elif flood == "settings":
                connection.sendall(frame(4, 0, 0, b"") * 50 + frame(6, 0, 0, b"12345678") * 50)
            else:
                connection.sendall(frame(9, 0, 1, header(b"x-a", b"b" * 100) * 140))
    except OSError:
        pass
    assert node.client().query("SELECT 1") > 0


@pytest.mark.parametrize("port", ["flight", "http", "peer"])
@pytest.mark.parametrize("greeting", [b"", b"GET", PREFACE[:10], b"\x16\x03\x01\x40\x00" + b"\1" * 2000])
def test_silent_connections_are_closed(node, port, greeting):
    connections = [connect(getattr(node, port), greeting) for _ in range(20)]
    assert node.client().query("SELECT 1") > 0
    deadline = time.monotonic() + 30
    for connection in connections:
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass


def test_probes_are_served_beside_idle_connections(node):
    held = [connect(node.http, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(400)]
    for path in ("health", "ready", "metrics"):
        with urllib.request.urlopen(f"http://{node.http}/{path}", timeout=5) as answer:
            assert answer.status == 200
    assert held


@pytest.mark.parametrize("text", [
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"\0" * 1000,
])
def test_wrong_http(node, text):
    connection = connect(node.http, b"")
    try:
        connection.sendall(text)
        connection.settimeout(12)
        answer = connection.recv(100)
    except ConnectionError:
        answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4") or b"\r\n\r\n0" in text, answer


def test_transactions_of_one_client(node):
    from wire import action, packed

    client = node.client()
    begin = action("BeginTransaction", packed("ActionBeginTransactionRequest", b""))
    codes = {outcome(lambda: client.stream("DoAction", begin))[0] for _ in range(2000)}
    assert codes <= {"OK", "RESOURCE_EXHAUSTED"}


def test_loads_that_never_end(node):
    import threading

    import pyarrow as pa

    from wire import command, field, flight_data, ipc_messages

    rows = pa.record_batch({"id": pa.array(range(5 * 10**8, 5 * 10**8 + 5000), pa.int64())})
    schema, batch = ipc_messages(rows)
    release = threading.Event()

    def slow():
        yield flight_data(*schema, descriptor=command("CommandStatementIngest", field(2, "t")))
        yield flight_data(*batch)
        release.wait(30)

    clients = [node.client() for _ in range(30)]
    put = "/arrow.flight.protocol.FlightService/DoPut"
    calls = [client.channel.stream_stream(put)(slow(), timeout=60) for client in clients]
    time.sleep(2)
    began = time.monotonic()
    node.client().update("INSERT INTO t SELECT 600000000 + value, 1, 'x' FROM generate_series(1, 5000)", 30)
    print(f"a load beside 30 that never end took {time.monotonic() - began:.2f} s")
    release.set()
    for call in calls:
        call.cancel()
