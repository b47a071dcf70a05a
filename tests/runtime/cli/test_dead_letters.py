"""`vibetuner dead-letters` in a small project, in a pipe and on a terminal."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from tests.processes import clean_environment, free_port, run_vibetuner, start_vibetuner
from tests.projects import write_project
from tests.runtime.tasks.letters.conftest import enqueued, keep, make_letter, payload_of
from vibetuner.cli.letters import parse_filters
from vibetuner.config import Settings, using_settings
from vibetuner.embedded import Lease
from vibetuner.errors import CommandError
from vibetuner.tasks.letters.letter import retry_id
from vibetuner.tasks.worker import TaskWorker
from vibetuner.testing import name_database

NOW = datetime.now(UTC).replace(microsecond=0)


@dataclass
class Desk:
    """A project with its dead letters, and the command."""

    folder: Path
    environment: dict[str, str]
    settings: Settings
    ids: list[str] = field(default_factory=list)

    def type(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run_vibetuner(
            "dead-letters", *arguments, folder=self.folder, **{**self.environment, **variables}
        )

    def bury(self, *ids: str, **changes: object) -> None:
        async def bury(queue: TaskWorker) -> None:
            for task_id in ids:
                values = {
                    "args": [task_id],
                    "payload": await payload_of(queue, task_id, task_id=task_id),
                    **changes,
                }
                letter = make_letter(task_id, **values)
                await keep(queue.redis, self.settings.redis_key_prefix, letter)

        self.ask(bury)

    def enqueued(self, task_id: str) -> int:
        counted: list[int] = []

        async def look(queue: TaskWorker) -> None:
            counted.append(await enqueued(queue, retry_id(make_letter(task_id))))

        self.ask(look)
        return counted[0]

    def ask(self, work: Callable[[TaskWorker], Awaitable[None]]) -> None:
        async def opened() -> None:
            async with TaskWorker(self.settings) as queue:
                await work(queue)

        with using_settings(self.settings):
            asyncio.run(opened())


@pytest.fixture(params=["mongodb", "stream"])
def desk(request: pytest.FixtureRequest, servers: Lease, tmp_path: Path) -> Desk:
    """Make a project with MongoDB, and one without."""
    name = f"desk-{uuid4().hex[:12]}"
    values = {
        "redis_url": servers.urls["redis"],
        "redis_key_prefix": name,
        "secret_key": "a secret of the desk",
    }
    if request.param == "mongodb":
        values["mongodb_url"] = name_database(servers.urls["mongodb"], name)
    return Desk(
        write_project(tmp_path / "project"),
        {name.upper(): value for name, value in values.items()},
        Settings(**values),
    )


def test_a_person_looks_retries_and_discards(desk: Desk):
    """The commands `list`, `show`, `retry` and `discard` lead from a failure to an empty list."""
    desk.bury("t2", failed_at=NOW - timedelta(minutes=1), task_name="pack")
    desk.bury("t1", failed_at=NOW)

    seen = desk.type("list")
    assert (seen.returncode, seen.stderr) == (0, "")
    first, second = seen.stdout.splitlines()
    assert re.fullmatch(
        r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ  t1  send_invoice  exception  ValueError: no address",
        first,
    )
    assert "t2  pack          exception" in second

    shown = desk.type("show", "t1")
    assert shown.returncode == 0
    assert 'arguments    "t1"\n' in shown.stdout
    assert re.search(r"payload +\d+ bytes\n", shown.stdout)
    assert shown.stdout.endswith("\nValueError: no address\n")

    retried = desk.type("retry", "t1")
    assert retried.returncode == 0
    assert retried.stdout.splitlines()[0] == f"t1 retried as {retry_id(make_letter('t1'))}"
    assert "Next:  vibetuner dead-letters list" in retried.stdout
    assert desk.enqueued("t1") == 1

    discarded = desk.type("discard", "t2", "--yes")
    assert discarded.stdout.splitlines()[0] == "t2 discarded"

    assert desk.type("count").stdout == "0\n"
    nothing = desk.type("list")
    assert (nothing.returncode, nothing.stdout) == (3, "No dead letters here.\n")
    record = desk.type("list", "--all").stdout
    assert re.search(
        rf"t1 .*\[retried as {retry_id(make_letter('t1'))} by \S+ on 20.* UTC\]", record
    )
    assert re.search(r"t2 .*\[discarded by \S+ on 20.* UTC\]", record)


def test_a_list_has_a_longest_length(tmp_path: Path):
    """`list --limit` refuses numbers that MongoDB could not take."""
    done = run_vibetuner("dead-letters", "list", "--limit", "1" * 20, folder=tmp_path)

    assert done.returncode == 2
    assert "error: Invalid value for '--limit': " in done.stderr


@pytest.mark.parametrize("desk", ["mongodb"], indirect=True)
def test_json_is_one_document(desk: Desk):
    """--json prints one document, without tracebacks in the list and without payloads."""
    desk.bury("t1", "t2")

    listed = json.loads(desk.type("list", "--json", "--limit", "1").stdout)
    assert listed["count"] == 2
    (letter,) = listed["letters"]
    assert letter["cause"] == "exception"
    assert letter["payload_bytes"] > 0
    assert not {"payload", "traceback"} & letter.keys()

    shown = json.loads(desk.type("show", "t1", "--json").stdout)
    assert shown["traceback"] == "ValueError: no address"
    assert "payload" not in shown

    done = json.loads(desk.type("retry", "t1", "nobody", "--json").stdout)
    assert done["retried"] == {"t1": retry_id(make_letter("t1"))}
    assert "no dead letter of nobody" in done["refused"]["nobody"]

    assert json.loads(desk.type("count", "--json").stdout) == {"count": 1}
    assert json.loads(desk.type("list", "--json", "--task", "x").stdout) == {
        "count": 0,
        "letters": [],
        "unreadable": [],
    }


def test_many_are_done_with_filters_and_yes(desk: Desk):
    """--all with filters acts on the letters that match, and needs --yes without a terminal."""
    old = NOW - timedelta(days=2)
    desk.bury(*(f"old{n}" for n in range(3)), failed_at=old)
    desk.bury(*(f"new{n}" for n in range(120)), failed_at=NOW)

    unsure = desk.type("retry", "--all", "--since", "1d")
    assert unsure.returncode == 2
    assert unsure.stderr == (
        "error: This would retry 120 dead letters. Pass --yes to do it without a terminal\n"
    )
    assert desk.type("count").stdout == "123\n"

    done = desk.type("retry", "--all", "--since", "1d", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "120 retried"
    assert desk.enqueued("new7") == 1

    two = desk.type("discard", "--all", "--yes", "--limit", "2")
    assert two.stdout.splitlines()[0] == "2 discarded"
    assert desk.type("count").stdout == "1\n"

    nothing = desk.type("retry", "--all", "--task", "nobody", "--yes")
    assert (nothing.returncode, nothing.stdout) == (3, "Nothing matched.\n")


def test_an_error_without_a_message_is_named_by_its_class(desk: Desk):
    """The class of an error that has no message is listed and shown without a colon."""
    desk.bury("t1", error="", error_type="MemoryError")

    assert desk.type("list").stdout.endswith("  exception  MemoryError\n")
    assert re.search(r"^error +MemoryError$", desk.type("show", "t1").stdout, re.MULTILINE)


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_what_is_refused_is_named_and_the_rest_is_done(desk: Desk):
    """Each refused letter is named in a line, with exit code 1, and the others are retried."""
    desk.bury("t1")
    desk.bury("t2", payload=b"")
    desk.bury("t3")
    desk.type("discard", "t3", "--yes")

    done = desk.type("retry", "t1", "t2", "t3")

    assert done.returncode == 1
    assert done.stdout.startswith(f"t1 retried as {retry_id(make_letter('t1'))}\n")
    gone, discarded = done.stderr.splitlines()
    assert gone.startswith("error: send_invoice t2 can't be retried: its arguments are gone")
    assert re.match(
        r"error: send_invoice t3 was discarded by \S+ on .* UTC, so it is not", discarded
    )


def test_four_people_press_at_once(desk: Desk):
    """Four concurrent retries in four processes enqueue the task once."""
    desk.bury("t1")

    with ThreadPoolExecutor(4) as people:
        outcomes = list(people.map(lambda _: desk.type("retry", "t1"), range(4)))

    assert [done.returncode for done in outcomes] == [0] * 4
    assert {done.stdout.splitlines()[0] for done in outcomes} == {
        f"t1 retried as {retry_id(make_letter('t1'))}"
    }
    assert desk.enqueued("t1") == 1


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_text_from_elsewhere_cannot_control_a_terminal(desk: Desk):
    """Control characters in an error's message don't reach the terminal."""
    desk.bury("t1", error="red \x1b[31m alert\nnew line", traceback="\x1b]0;title\x07")

    output = desk.type("list").stdout + desk.type("show", "t1").stdout

    assert "\x1b" not in output
    assert "\x07" not in output
    assert len(desk.type("list").stdout.splitlines()) == 1


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_a_terminal_is_asked_sees_colours_and_a_bar(desk: Desk):
    """On a terminal, `retry --all` asks before it acts, and shows colours and a bar."""
    desk.bury(*(f"t{n}" for n in range(5)))

    code, output = on_terminal(desk, "retry", "--all", answer="n\n")
    assert code == 2
    assert "Retry 5 dead letters? [y/N]" in output
    assert "error: not confirmed, nothing was done" in output
    for keys in ({"answer": "\x04"}, {"interrupt": "[y/N]"}):  # Ctrl-D, and Ctrl-C once
        code, output = on_terminal(desk, "retry", "--all", **keys)
        assert (code, output.splitlines()[-1]) == (2, "error: not confirmed, nothing was done")
    assert desk.type("count").stdout == "5\n"

    code, output = on_terminal(desk, "list")
    assert code == 0
    assert "\x1b[" in output
    assert "Next:  vibetuner dead-letters show t" in output
    assert "\x1b[3" not in on_terminal(desk, "list", NO_COLOR="1")[1]

    code, output = on_terminal(desk, "retry", "--all", answer="y\n")
    assert code == 0
    assert "5/5" in output
    assert "5 retried" in output


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_discarding_one_asks_at_a_terminal_and_takes_a_short_id(desk: Desk):
    """`discard` asks on a terminal, needs --yes without one, and takes the start of an id."""
    first, second, third = (f"{n}2345678{uuid4().hex[8:]}" for n in "aab")
    desk.bury(first, second, third)

    code, output = on_terminal(desk, "discard", third, answer="n\n")
    assert code == 2
    assert "Discard 1 dead letter? [y/N]" in output
    shown = desk.type("show", third[:8], "--json")
    assert (json.loads(shown.stdout)["task_id"], shown.returncode) == (third, 0)
    refused = desk.type("discard", third[:10])
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "error: This would discard 1 dead letter. Pass --yes to do it without a terminal\n"
    )
    assert desk.type("discard", third[:10], "--yes").stdout.startswith(f"{third} discarded")
    several = desk.type("retry", first[:8])
    assert several.returncode == 1
    assert f"Several dead letters begin with {first[:8]}: " in several.stderr
    assert several.stderr.count("\n") == 1
    assert desk.type("show", "c2345678").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["list", "--cause", "bad luck"],
            "--cause takes one of exception, gave_up, timeout, crashed",
        ),
        (["list", "--since", "yesterday"], "--since takes 30m, 2h, 3d or a date such as 20"),
        (["retry"], "Say what to retry: ids, or --all, which --task"),
        (["retry", "t1", "--all"], "Say what to retry: ids, or --all"),
        (["discard", "t1", "--task", "pack"], "Say what to discard: ids, or --all"),
        (["discard", "--task", "pack"], "Say what to discard: ids, or --all"),
    ],
)
@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_bad_input_is_one_line(desk: Desk, arguments: list[str], message: str):
    """Wrong arguments are refused in one line that names the cure."""
    done = desk.type(*arguments)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("desk", ["mongodb"], indirect=True)
def test_what_does_not_answer_is_one_line(desk: Desk, tmp_path: Path):
    """An unreachable MongoDB or Redis is one line, and so is a folder without a project."""
    dead = f"127.0.0.1:{free_port()}"
    for variables, message in [
        ({"MONGODB_URL": f"mongodb://ann:pw@{dead}"}, f"MongoDB at mongodb://***@{dead} can't"),
        ({"REDIS_URL": f"redis://{dead}"}, f"Redis at redis://{dead} can't be used"),
        ({"REDIS_URL": ""}, "Background tasks: Redis not configured"),
    ]:
        done = desk.type("list", **variables)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {message}")
        assert len(done.stderr.splitlines()) == 1

    outside = run_vibetuner("dead-letters", "list", folder=tmp_path, **desk.environment)
    assert outside.returncode == 1
    assert len(outside.stderr.splitlines()) == 1


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_a_letter_that_is_not_there_has_an_exit_code_of_its_own(desk: Desk):
    """A letter that doesn't exist has an exit code of its own, unlike a failure."""
    done = desk.type("show", "t9")

    assert done.returncode == 3
    assert done.stderr == (
        "error: There is no dead letter of t9. See:  vibetuner dead-letters list --all\n"
    )


@pytest.mark.parametrize("desk", ["stream"], indirect=True)
def test_arguments_of_the_projects_own_classes_are_retried(desk: Desk):
    """A payload with a class of the project's own is retried if it has our signature."""
    (desk.folder / "src" / "shop" / "orders.py").write_text("class Order:\n    pass\n")
    signed = subprocess.run(
        [sys.executable, "-c", SIGN],
        cwd=desk.folder,
        env=clean_environment(**desk.environment, PYTHONPATH="src"),
        capture_output=True,
        check=True,
    ).stdout
    desk.bury("t1", payload=signed)

    assert desk.type("retry", "t1").returncode == 0
    assert desk.enqueued("t1") == 1


SIGN = """
import hmac, pickle, sys
from shop.orders import Order
from vibetuner.config import get_settings
from vibetuner.tasks.payload import signing_keys
body = pickle.dumps({"f": "send_invoice", "a": (Order(),), "k": {}, "t": 1})
sys.stdout.buffer.write(body + hmac.digest(signing_keys(get_settings())[0], body, "sha256"))
"""


@pytest.mark.parametrize("text", ["2", "h", "-3d", "2026-13-01", "", "9" * 30 + "w"])
def test_a_span_that_is_none_is_refused(text: str):
    """A span of time that is malformed, or longer than the calendar, is refused."""
    with pytest.raises(CommandError, match="--since takes"):
        parse_filters(None, None, None, text)


def on_terminal(
    desk: Desk, *arguments: str, answer: str = "", interrupt: str = "", **variables: str
) -> tuple[int, str]:
    """Run the command on a terminal, type ``answer``, and return the exit code and the output.

    Once it shows ``interrupt`` and waits, Ctrl-C is pressed.
    """
    ours, theirs = pty.openpty()
    process = start_vibetuner(
        "dead-letters",
        *arguments,
        folder=desk.folder,
        environment={**desk.environment, "TERM": "xterm-256color", **variables},
        files=(theirs, theirs, theirs),
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    output, deadline = b"", time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.3)[0]:
                if not (chunk := os.read(ours, 65536)):
                    break
                output += chunk
            elif interrupt and interrupt.encode() in output:
                # Earlier, the signal could arrive just before Python waits for a key.
                process.send_signal(signal.SIGINT)
                interrupt = ""
    except OSError as end:
        if end.errno != errno.EIO:  # Linux's error for a terminal whose other end is closed
            raise
    finally:
        os.close(ours)
        if process.poll() is None and time.monotonic() >= deadline:
            process.kill()
    return process.wait(60), output.decode(errors="replace")
