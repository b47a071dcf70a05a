"""Listening sockets: their patience with a port that is taken."""

from __future__ import annotations

import socket
import threading
from contextlib import closing

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
