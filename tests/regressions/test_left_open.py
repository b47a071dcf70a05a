"""Connections that libraries leave open when they are cancelled fail no test."""

from __future__ import annotations

import socket
import warnings
from pathlib import Path

import pytest

from tests.processes import run_pytest

LATE_GARBAGE = """
import anyio
import pytest


@pytest.fixture(scope="session")
def late():
    yield
    garbage = [anyio.create_memory_object_stream(1)]
    garbage.append(garbage)


def test_one(late):
    assert True
"""


def test_an_unconnected_socket_fails_no_test():
    """The warning about an unclosed socket is ignored if the socket was never connected.

    PyMongo leaves such a socket when it is closed while it connects.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.socket(proto=socket.IPPROTO_TCP) as one:
            one.bind(("127.0.0.1", 0))
            warnings.warn(f"unclosed {one!r}", ResourceWarning, stacklevel=1)
            one.connect(server.getsockname())
            with pytest.raises(ResourceWarning):
                warnings.warn(f"unclosed {one!r}", ResourceWarning, stacklevel=1)


def test_a_buffer_found_at_the_end_of_a_session_fails_no_test(tmp_path: Path):
    """A memory stream that is collected only after the last test does not fail the session."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    (tmp_path / "test_late.py").write_text(LATE_GARBAGE)

    done = run_pytest(folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 passed" in done.stdout
