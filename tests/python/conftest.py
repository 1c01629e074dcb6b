"""A cluster of three nodes, started with `plexus demo`, which all client tests share."""

import json
import os
import signal
import subprocess

import pytest


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    binary = os.environ.get("PLEXUS_BINARY", "plexus")
    directory = tmp_path_factory.mktemp("cluster")
    command = [binary, "demo", "--no-shell", "--scale", "0.01", "--format", "json", "--dir", str(directory)]
    with open(directory / "demo.log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        assert line, (directory / "demo.log").read_text()
        yield json.loads(line)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def uri(cluster):
    return "grpc://" + cluster["nodes"][0]["flight"]
