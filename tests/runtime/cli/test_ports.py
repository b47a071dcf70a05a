"""Listening sockets: their patience with a port that is taken."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress

import pytest

from tests.processes import free_port
from vibetuner.cli.ports import listen
from vibetuner.errors import CommandError


def test_a_port_that_becomes_free_in_time_is_taken():
    """A port that is still taken, as by a child of a killed supervisor, is tried again."""
    taken = socket.create_server(("127.0.0.1", free_port()))
    port = taken.getsockname()[1]
    with pytest.raises(CommandError, match="can't be used"):
        listen("127.0.0.1", port)

    threading.Timer(0.2, taken.close).start()
    with closing(listen("127.0.0.1", port, patience=60)) as listener:
        assert listener.getsockname()[1] == port


def test_after_the_last_port_comes_a_low_one():
    """If the last port is taken, the cure names one that exists."""
    with closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # taken already
            taken.bind(("127.0.0.1", 65_535))
            taken.listen()
        with pytest.raises(CommandError, match=r"--port 1\d{3}$"):
            listen("127.0.0.1", 65_535)


@pytest.mark.parametrize(
    ("host", "line"),
    [
        ("", "--host is empty. Name an address, such as 127.0.0.1"),
        ("ü..x", "No host name. Name an address of this machine:  --host 127.0.0.1"),
        ("shop.invalid", "Name an address of this machine:  --host 127.0.0.1"),
        ("192.0.2.1", "Name an address of this machine:  --host 127.0.0.1"),
    ],
)
def test_an_address_that_this_machine_does_not_have_is_refused(host: str, line: str):
    """An address that is empty, unknown or another machine's is refused with that cure.

    An empty one would be every address of this machine, so that others could connect.
    """
    with pytest.raises(CommandError, match=f"{line}$"):
        listen(host, free_port(), cure="Stop what uses it")
