"""The connections that a web process accepts."""

from __future__ import annotations

import pytest

from vibetuner.cli.connections import Budget, Clients

BUDGET = Budget(total=16, per_client=2, at_once=8)


def test_one_client_gets_its_share_and_no_more():
    """A client gets its share of connections, and a trusted proxy gets more.

    A closed connection frees its place.
    """
    clients = Clients(BUDGET, trusted="10.0.0.1")
    answers = [clients.admit("192.0.2.1", 0) for _ in range(3)]
    assert answers == ["", "", "429 Too Many Requests"]
    clients.leave("192.0.2.1")
    assert clients.admit("192.0.2.1", 0) == ""
    assert [clients.admit("10.0.0.1", 0) for _ in range(3)] == ["", "", ""]


def test_all_together_get_no_more_than_the_process_has_files(caplog: pytest.LogCaptureFixture):
    """A connection that exceeds the process's limit gets 503, and the log names the cure."""
    assert Clients(BUDGET, trusted="").admit("192.0.2.1", 16) == "503 Service Unavailable"
    assert caplog.messages == [
        "refused a connection, as 16 are open. Raise the limit of open files: ulimit -n"
    ]


def test_a_connection_without_an_address_is_counted_for_no_client():
    """A connection without an address counts for no client, as over a Unix socket."""
    clients = Clients(BUDGET, trusted="")
    assert [clients.admit(None, 0) for _ in range(3)] == ["", "", ""]
    clients.leave(None)
    assert clients.admit("192.0.2.1", 0) == ""
