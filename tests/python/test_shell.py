"""The interactive shell, in a pseudoterminal."""

import os
import pty
import select
import signal
import time

PATIENCE = 30


class Shell:
    def __init__(self, *arguments):
        binary = os.environ.get("PLEXUS_BINARY", "plexus")
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ["HOME"] = "/nonexistent"
            os.environ["TERM"] = "dumb"
            os.execvp(binary, [binary, *arguments])
        self.seen = ""

    def wait_for(self, text):
        """Reads until `text` appears. Returns everything before it."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} did not appear: {self.seen!r}"
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"the shell ended before {text!r}: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def type(self, text):
        os.write(self.terminal, text.encode())

    def wait_end(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # Output must be read, or the shell blocks on a full buffer.
            if select.select([self.terminal], [], [], 0.05)[0]:
                try:
                    os.read(self.terminal, 65536)
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("the shell did not end")


def test_a_session_at_a_terminal(uri):
    shell = Shell("sql", "--url", uri)
    shell.wait_for("plexus>")
    # A statement may span lines; it ends with a semicolon.
    shell.type("SELECT 40 +\r2 AS answer;\r")
    assert "42" in shell.wait_for("1 row (")
    shell.wait_for("plexus>")
    shell.type("SELECT wrong;\r")
    shell.wait_for("error: ")
    shell.wait_for("plexus>")
    # Ctrl-C cancels the statement and does not end the shell.
    shell.type("SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b WHERE a.value % 7 = b.value;\r")
    time.sleep(1.5)
    shell.type("\x03")
    shell.wait_for("cancelled")
    shell.wait_for("plexus>")
    shell.type("SELECT 1 AS still_here;\r")
    shell.wait_for("still_here")
    shell.wait_for("plexus>")
    shell.type("\x04")
    assert shell.wait_end() == 0


def node_pids(text):
    """The process ids in the table of nodes that the demo prints."""
    return [int(line.split()[1]) for line in text.splitlines() if "127.0.0.1:" in line and line.split()[0].isdigit()]


def wait_gone(pids):
    deadline = time.monotonic() + PATIENCE
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} still run"
        time.sleep(0.1)


def test_the_demos_shell_ends_with_its_nodes():
    shell = Shell("demo", "--nodes", "2", "--scale", "0.001")
    announced = shell.wait_for("plexus>")
    assert "warning: 3 replicas need as many nodes, there are 2" in announced
    assert "adbc_driver_flightsql" in announced and "curl http://127.0.0.1:" in announced
    pids = node_pids(announced)
    assert len(pids) == 2
    shell.type("SELECT shards, replicas FROM plexus.tables WHERE table_name = 'lineitem';\r")
    assert "| 6      | 2        |" in shell.wait_for("1 row (")
    shell.type("\x04")
    assert shell.wait_end() == 0
    wait_gone(pids)


def test_nodes_end_when_the_demo_is_killed():
    shell = Shell("demo", "--nodes", "1", "--scale", "0")
    pids = node_pids(shell.wait_for("plexus>"))
    assert len(pids) == 1
    os.kill(shell.pid, signal.SIGKILL)
    os.waitpid(shell.pid, 0)
    wait_gone(pids)
