"""Clusters of three nodes, started with `plexus demo`, which tests share."""

import contextlib
import json
import os
import signal
import subprocess

import pytest


@contextlib.contextmanager
def demo(directory, scale):
    """A running cluster with the TPC-H tables of a scale: what `plexus demo` says of it."""
    binary = os.environ.get("PLEXUS_BINARY", "plexus")
    command = [binary, "demo", "--no-shell", "--scale", scale, "--format", "json", "--dir", str(directory)]
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
def cluster(tmp_path_factory):
    with demo(tmp_path_factory.mktemp("cluster"), "0.01") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def uri(cluster):
    return "grpc://" + cluster["nodes"][0]["flight"]


@pytest.fixture(scope="module")
def empty_uri(tmp_path_factory):
    """A cluster without tables."""
    with demo(tmp_path_factory.mktemp("empty"), "0") as cluster:
        yield "grpc://" + cluster["nodes"][0]["flight"]
