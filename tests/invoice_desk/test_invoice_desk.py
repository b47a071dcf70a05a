"""The invoice desk: a project that is built from the documentation alone, run as by a user.

``app/`` holds what its author has written over a new project without the example.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from difflib import ndiff
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import httpx2
import pytest

from tests.environments import Mold
from tests.invoice_desk.conftest import APP, Desk, FlakySmtp
from tests.processes import Site, clean_environment
from tests.template.conftest import run
from tests.waiting import eventually
from vibetuner.scaffold.draft import Place
from vibetuner.scaffold.names import Name
from vibetuner.scaffold.task import draft_batch

pytestmark = pytest.mark.slow

DOCUMENTS = 200
ROWS = 300
LAST_ROW = 119
# The insert of the row after LAST_ROW never ends, and a table records each row that is counted.
TRIGGERS = f"""
    CREATE TABLE noted (row INTEGER);
    CREATE TRIGGER note AFTER UPDATE OF rows ON uploads BEGIN
        INSERT INTO noted VALUES (NEW.rows);
    END;
    CREATE VIEW endless AS
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
    CREATE TRIGGER halt BEFORE INSERT ON invoices WHEN NEW.number = 'I-{LAST_ROW + 1}' BEGIN
        SELECT count(*) FROM endless;
    END;
"""


def test_the_readme_counts_the_lines_that_are_written_by_hand():
    """The README counts each feature's hand-written lines, and lists every file of the app."""
    source = APP / "src" / "invoice_desk"
    generated = draft_batch(Place(APP, "invoice_desk"), Name((), "documents"), outbox=True).files

    def lines_of(path: Path) -> int:
        before = generated.get(path.relative_to(APP).as_posix(), "").splitlines()
        after = path.read_text("utf-8").splitlines()
        return sum(line.startswith("+ ") for line in ndiff(before, after))

    counted = set()
    readme = (APP.parent / "README.md").read_text("utf-8")
    for feature, lines, files in re.findall(r"(?m)^\| (.+?) \| (\d+) \| (`.+`) \|$", readme):
        names = files.strip("`").split("` `")
        paths = [(APP if name.startswith("tests/") else source) / name for name in names]
        assert int(lines) == sum(map(lines_of, paths)), feature
        counted |= set(paths)
    assert counted == {path for path in APP.rglob("*.*") if path.suffix in {".py", ".html"}}


def test_the_desk_passes_its_own_check(desk: Desk, mold: Mold, tmp_path: Path):
    """The desk passes `just check`: format, lint, types, and its own 15 tests."""
    project = tmp_path / "invoice-desk"
    shutil.copytree(
        desk.root, project, ignore=shutil.ignore_patterns("*.log", "desk.db*", ".vibetuner")
    )
    mold.lend(project, lock=True)
    environment = clean_environment(UV_NO_GITHUB_FAST_PATH="1")
    checked = run(
        "uv", "run", "just", "check", cwd=project, environment=environment, seconds=300
    ).stdout
    assert "Success: no issues found" in checked
    assert "15 passed" in checked


async def test_an_import_goes_on_where_its_worker_was_killed(desk: Desk, site: Site):
    """After SIGKILL in the middle of a row, another worker imports and counts each row once."""
    desk.begin_with(invoices=0)
    desk.sql(TRIGGERS)
    try:
        with desk.worker() as worker:
            page = await upload(site, ROWS)
            await eventually(lambda: desk.sql("SELECT rows FROM uploads") == [(LAST_ROW,)])
            worker.stop(signal.SIGKILL)
        desk.sql("DROP TRIGGER halt")
        with desk.worker():
            async with listening(f"{page}/events") as events:
                heard = [event async for event in events]
        noted = desk.sql("SELECT row FROM noted")
    finally:
        desk.sql("DROP TRIGGER IF EXISTS halt; DROP TRIGGER note")
        desk.sql("DROP VIEW endless; DROP TABLE noted")

    assert noted == [(row,) for row in range(1, ROWS + 1)]
    assert desk.sql("SELECT count(*) FROM invoices") == [(ROWS,)]
    [(end, bar), (last, _)] = heard[-2:]
    assert (end, last) == ("complete", "close")
    assert f"{ROWS} of {ROWS}" in bar


async def test_documents_are_made_and_mailed_once(desk: Desk, site: Site, smtp: FlakySmtp):
    """A batch of 200 documents ends with one task and sends one mail to each customer.

    A deferred mail is retried, and a refused recipient becomes a dead letter.
    """
    desk.begin_with(DOCUMENTS)
    async with httpx2.AsyncClient(base_url=site.url, timeout=60) as client:
        page = (await client.post("/documents")).text
        [batch] = re.findall('sse-connect="/events/documents/(.+?)"', page)
        async with listening(f"{site.url}/events/documents/{batch}") as events:
            with desk.worker(SMTP_URL=f"smtp://127.0.0.1:{smtp.port}"):
                heard = [event async for event in events]
                await eventually(
                    lambda: len(smtp.envelopes) == DOCUMENTS - 1 and smtp.has_refused, seconds=60
                )
        archive = (await client.get(f"/documents/{batch}/archive")).content

    [(end, bar), (last, _)] = heard[-2:]
    assert (end, last) == ("complete", "close")
    assert f"{DOCUMENTS} of {DOCUMENTS}" in bar
    assert len(ZipFile(BytesIO(archive)).namelist()) == DOCUMENTS
    assert [task["state"] for task in desk.listed("tasks", "documents_end")] == ["done"]
    assert len(smtp.put_off) == DOCUMENTS // 10
    assert set(Counter(recipient for _, recipient in smtp.envelopes).values()) == {1}
    [letter] = desk.listed("dead-letters", "mail_document")
    assert letter["cause"] == "gave_up"
    assert letter["args"] == [batch, "I-7"]


async def test_a_payment_is_booked_once_and_who_has_paid_is_not_reminded(
    desk: Desk, site: Site, smtp: FlakySmtp
):
    """Twenty concurrent deliveries of an event enqueue one task.

    A customer who has not paid receives one reminder, although the reminders run twice.
    """
    desk.begin_with(invoices=3, due="2020-01-31")
    body = json.dumps({"event": "evt_1", "number": "I-1"}).encode()
    signature = hmac.new(desk.variables["BANK_SECRET"].encode(), body, "sha256").hexdigest()
    unsigned = {"Content-Type": "application/json"}
    headers = {**unsigned, "X-Signature": signature}
    async with httpx2.AsyncClient(base_url=site.url, timeout=60) as client:
        answers = await asyncio.gather(
            *(client.post("/webhooks/payments", content=body, headers=headers) for _ in range(20))
        )
        stranger = await client.post("/webhooks/payments", content=body, headers=unsigned)
    with desk.worker(SMTP_URL=f"smtp://127.0.0.1:{smtp.port}"):
        await eventually(lambda: desk.sql("SELECT * FROM invoices WHERE paid_at IS NOT NULL"))
        reminders = [await desk.run_task("remind_overdue") for _ in range(2)]
        await eventually(lambda: len(smtp.envelopes) == 2)

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert stranger.status_code == 401
    assert len(desk.listed("tasks", "book_payment")) == 1
    assert reminders == [2, 0]
    assert sorted(str(mail["To"]) for mail in smtp.messages) == [
        "ann-2@example.com",
        "ann-3@example.com",
    ]


async def upload(site: Site, rows: int) -> str:
    """Upload a file of invoices as a form does, and return the URL of its page."""
    lines = (f"I-{n},Ann Lee,ann-{n}@example.com,1250,2099-01-31" for n in range(1, rows + 1))
    text = "\n".join(["number,customer,email,cents,due", *lines])
    async with httpx2.AsyncClient(base_url=site.url, timeout=60) as client:
        answer = await client.post("/uploads", files={"file": ("invoices.csv", text)})
    assert answer.status_code == 303, answer.text
    return f"{site.url}{answer.headers['location']}"


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
    """Open an event stream, and yield its events as pairs of name and data."""
    async with httpx2.AsyncClient(timeout=60) as client, client.stream("GET", url) as response:
        assert response.status_code == 200
        yield events_of(response.aiter_lines())


async def events_of(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, str]]:
    """Yield the events of a stream as pairs, up to its `close` event."""
    name, data = "", []
    async for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line and name:
            yield name, "\n".join(data)
            if name == "close":
                return
            name, data = "", []
