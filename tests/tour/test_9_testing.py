"""Testing tasks: from a fake that records calls to a worker that the test controls.

The runtime provides the fixtures; a project's tests request them and import nothing.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import patch

import pytest
from httpx2 import AsyncClient

from vibetuner.config import data_dir, get_settings
from vibetuner.models import UserModel
from vibetuner.resources.mongo import Database
from vibetuner.tasks.robust import robust_task
from vibetuner.testing import ManualWorker, MockTasks, SettingsOverride, replay_fuzz

invoices: list[str] = []
bank_is_open: list[bool] = []


@robust_task(max_retries=3, backoff_base=60)
async def send_bill(customer: str) -> None:
    if not bank_is_open:
        raise ConnectionError("the bank is closed")
    invoices.append(customer)


@robust_task()
async def bill(customer: str) -> None:
    await asyncio.sleep(0)  # asks the bank
    invoices.append(customer)
    await asyncio.sleep(0)  # writes to the ledger


@robust_task()
async def bill_once(customer: str) -> None:
    await asyncio.sleep(0)
    if customer not in invoices:
        invoices.append(customer)
    await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def nothing_is_billed() -> None:
    invoices.clear()
    bank_is_open.clear()


# A test of a route needs to know only that the route has enqueued.


async def test_a_fake_task_remembers_that_it_was_enqueued(
    vibetuner_client: AsyncClient, mock_tasks: MockTasks
):
    """A fake task records `enqueue` without Redis; patch the name that the route uses."""
    with patch("app.frontend.routes.signup.send_welcome_email", mock_tasks.send_welcome_email):
        answer = await vibetuner_client.post("/signup", data={"email": "a@example.com"})

    assert mock_tasks.send_welcome_email.enqueue.called
    assert len(answer.json()["task_id"]) == 32


# A task is a function, and its logic is tested as one.


async def test_a_task_is_called_directly(vibetuner_db: Database):
    """A direct call runs the task on a database that is made for the test and then dropped."""
    from app.tasks.emails import send_welcome_email

    user = await UserModel(email="a@example.com").insert()

    result = await send_welcome_email(str(user.id))

    assert result["status"] == "sent"


# The route and the task together, with a real queue between them.


async def test_from_the_request_to_the_mail(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker
):
    """The manual worker runs an enqueued task only when the test calls `run_until_idle`."""
    from app.tasks.emails import send_welcome_email

    await vibetuner_client.post("/signup", data={"email": "ann@example.com"})
    vibetuner_worker.assert_enqueued(send_welcome_email, times=1)
    assert mails() == 0

    await vibetuner_worker.run_until_idle()

    assert mails() == 1


async def test_inline_a_task_has_run_when_enqueue_returns(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker
):
    """Inside `inline()`, a task runs before `enqueue` returns."""
    async with vibetuner_worker.inline():
        await vibetuner_client.post("/signup", data={"email": "ann@example.com"})
        assert mails() == 1


# A test can advance the queue's clock.


async def test_a_retry_waits_for_the_clock(vibetuner_worker: ManualWorker):
    """A retry runs when the test advances the queue's clock over its pause."""
    await send_bill.enqueue("acme")
    await vibetuner_worker.run_until_idle()
    bank_is_open.append(True)
    assert invoices == []

    await vibetuner_worker.advance(minutes=1)

    assert invoices == ["acme"]


async def test_a_task_that_is_given_up_is_a_dead_letter(vibetuner_worker: ManualWorker):
    """`advance` runs all tries of a failing task, and the test finds its dead letter."""
    await send_bill.enqueue("acme")

    await vibetuner_worker.advance(minutes=7)

    [letter] = vibetuner_worker.dead_letters
    assert (letter.task_name, letter.tries, letter.args) == ("send_bill", 3, ["acme"])


async def test_cron_runs_at_its_hour(vibetuner_worker: ManualWorker):
    """A cron task runs when the test advances the queue's clock to its time."""
    from app.tasks.maintenance import daily_digest

    nine = vibetuner_worker.now.replace(hour=9, minute=0, second=0, microsecond=0)
    nine += timedelta(days=1)
    await vibetuner_worker.skip(seconds=(nine - vibetuner_worker.now).total_seconds() - 60)
    await vibetuner_worker.run_until_idle()
    before = await runs_of(daily_digest.fn_name, vibetuner_worker)

    await vibetuner_worker.advance(minutes=2)

    assert await runs_of(daily_digest.fn_name, vibetuner_worker) == before + 1


# A task may run twice: a worker can be lost at any line.


async def test_replay_fuzz_finds_a_task_that_must_not_run_twice():
    """`replay_fuzz` fails for a task that isn't idempotent, and names the await that was cut."""
    with pytest.raises(AssertionError, match=r"cut off at await 2 of 2, .*# writes to the ledger"):
        await replay_fuzz(bill, "acme", observe=lambda: invoices, reset=invoices.clear)


async def test_a_task_that_may_run_twice_passes():
    """`replay_fuzz` passes for a task that has the same effect wherever it is cut."""
    await replay_fuzz(bill_once, "acme", observe=lambda: invoices, reset=invoices.clear)
    assert invoices == ["acme"]


# A test can override settings.


def test_settings_are_overridden_by_value(vibetuner_settings: SettingsOverride):
    """`vibetuner_settings` overrides settings by value until the end of the test."""
    vibetuner_settings(mail_from="team@example.com")

    assert get_settings().mail_from == "team@example.com"


def mails() -> int:
    return len(list((data_dir() / "outbox").glob("*.eml")))


async def runs_of(name: str, worker: ManualWorker) -> int:
    return sum(result.fn_name == name for result in await worker.results())
