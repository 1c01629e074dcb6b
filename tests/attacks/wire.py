"""Flight messages by hand: protobuf without generated code, so that they can be wrong in any way."""

import struct

import grpc
import pyarrow as pa

SERVICE = "/arrow.flight.protocol.FlightService/"
TYPES = "type.googleapis.com/arrow.flight.protocol.sql."
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def varint(number):
    encoded = b""
    while True:
        number, low = number >> 7, number & 0x7F
        encoded += bytes([low | (0x80 if number else 0)])
        if not number:
            return encoded


def field(number, value):
    """A field: bytes, text, or a number."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def parse(message):
    """The fields of a message: pairs of number and value."""
    at, found = 0, []

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
        if key & 7 == 0:
            found.append((key >> 3, number()))
        else:
            length = number() if key & 7 == 2 else {5: 4, 1: 8}[key & 7]
            found.append((key >> 3, message[at : at + length]))
            at += length
    return found


def first(message, number):
    return next((value for found, value in parse(message) if found == number), None)


def packed(name, body):
    return field(1, TYPES + name) + field(2, body)


def command(name, body):
    """A descriptor of a Flight SQL command."""
    return field(1, 2) + field(2, packed(name, body))


def action(kind, body=b""):
    return field(1, kind) + field(2, body)


def flight_data(header=b"", body=b"", descriptor=None):
    message = field(1, descriptor) if descriptor is not None else b""
    return message + field(2, header) + (field(1000, body) if body else b"")


def ipc_messages(batch, codec=None):
    """The messages of an IPC stream with a batch: pairs of header and body."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    messages, reader = [], pa.ipc.MessageReader.open_stream(sink.getvalue())
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return messages
        body = message.body.to_pybytes() if message.body else b""
        messages.append((message.metadata.to_pybytes(), body))


def int64(number):
    return struct.pack("<q", number)


class Client:
    """A connection to a node."""

    def __init__(self, address, metadata=()):
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.metadata = metadata

    def unary(self, method, message, timeout=30):
        return self.channel.unary_unary(SERVICE + method)(message, timeout=timeout, metadata=self.metadata)

    def stream(self, method, message, timeout=30):
        call = self.channel.unary_stream(SERVICE + method)
        return list(call(message, timeout=timeout, metadata=self.metadata))

    def put(self, messages, timeout=30):
        call = self.channel.stream_stream(SERVICE + "DoPut")
        return list(call(iter(messages), timeout=timeout, metadata=self.metadata))

    def ticket(self, sql, timeout=30):
        info = self.unary("GetFlightInfo", command("CommandStatementQuery", field(1, sql)), timeout)
        return first(first(info, 3), 1)

    def query(self, sql, timeout=30):
        """The size of a result in bytes."""
        return sum(len(data) for data in self.stream("DoGet", self.ticket(sql, timeout), timeout))

    def update(self, sql, timeout=30):
        self.put([flight_data(descriptor=command("CommandStatementUpdate", field(1, sql)))], timeout)

    def ingest(self, table, messages, timeout=60, create=False):
        options = field(1, field(1, 1) + field(2, 2)) if create else b""
        descriptor = command("CommandStatementIngest", options + field(2, table))
        first_message, *rest = messages
        data = [flight_data(*first_message, descriptor=descriptor)]
        return self.put(data + [flight_data(*message) for message in rest], timeout)


def outcome(attack):
    """The code with which a call ends, and its message."""
    try:
        attack()
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
