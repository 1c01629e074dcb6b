"""A node that is attacked."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from wire import Client

MEMORY = 1 << 30
READY_WITHIN = 5


def control_group(name, limit):
    """The file by which a process enters a control group with a memory limit; None without permission."""
    for root, limit_file in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = pathlib.Path(root) / name
        try:
            group.mkdir(exist_ok=True)
            (group / limit_file).write_text(str(limit))
            return group / "cgroup.procs"
        except OSError:
            continue
    return None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for listening in sockets:
        listening.bind(("127.0.0.1", 0))
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


class Node:
    def __init__(self, directory):
        self.directory, self.log_file = directory, directory / "log"
        self.flight, self.peer, self.http = (f"127.0.0.1:{port}" for port in free_ports(3))
        group = control_group(f"plexus-attacks-{os.getpid()}", MEMORY)
        command = [os.environ.get("PLEXUS_BINARY", "plexus"), "start", "--bootstrap"]
        for name, value in (("data-dir", directory / "data"), ("flight", self.flight), ("peer", self.peer)):
            command += [f"--{name}", str(value)]
        command += ["--http", self.http, "--export-dir", str(directory)]

        def enter():
            if group is not None:
                group.write_text(str(os.getpid()))

        with open(self.log_file, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=enter)
        assert self.is_ready(30), self.log_file.read_text()
        self.limited = group is not None

    def client(self, **options):
        return Client(self.flight, **options)

    def is_ready(self, within):
        began = time.monotonic()
        while time.monotonic() - began < within:
            try:
                with urllib.request.urlopen(f"http://{self.http}/ready", timeout=2) as answer:
                    return answer.status == 200
            except OSError:
                time.sleep(0.05)
        return False

    def check(self):
        """The node stands: it runs, is ready, answers, and nothing in it panicked."""
        assert self.process.poll() is None, f"the node has ended: {self.log_file.read_text()[-2000:]}"
        assert self.is_ready(READY_WITHIN)
        assert self.client().query("SELECT 1") > 0
        assert "panicked at" not in self.log_file.read_text()

    def resident_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) // 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="session")
def running_node(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("node"))
    client = node.client()
    client.update("CREATE TABLE t (id BIGINT, a BIGINT, s VARCHAR)")
    client.update("INSERT INTO t SELECT value, value % 100, repeat('x', 20) FROM generate_series(1, 100000)", 60)
    yield node
    node.stop()


@pytest.fixture
def node(running_node):
    """The node, which is looked at after the test."""
    yield running_node
    running_node.check()
