"""Documents that are made together."""

from io import BytesIO
from zipfile import ZipFile

from httpx2 import AsyncClient
from sqlmodel import update
from vibetuner.config import data_dir
from vibetuner.resources.sql import open_session
from vibetuner.testing import ManualWorker, replay_fuzz

from invoice_desk.models import Batch, Document, Invoice
from invoice_desk.tasks.documents import finish_batch, make_document
from invoice_desk.tasks.mails import mail_document


async def test_each_invoice_gets_a_document_and_the_batch_one_end(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = (await vibetuner_client.post("/batches")).headers["location"]
    vibetuner_worker.assert_enqueued(make_document, times=3)
    assert "Download all" not in (await vibetuner_client.get(batch)).text
    await vibetuner_worker.run_until_idle()
    vibetuner_worker.assert_enqueued(finish_batch, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=3)
    assert "Download all" in (await vibetuner_client.get(f"{batch}/state")).text
    archive = await vibetuner_client.get(f"{batch}/archive")
    assert sorted(ZipFile(BytesIO(archive.content)).namelist()) == [
        "I-0.html",
        "I-1.html",
        "I-2.html",
    ]


async def test_a_document_that_fails_holds_up_nobody(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = (await vibetuner_client.post("/batches")).headers["location"]
    (data_dir() / batch.strip("/") / "I-1.html").mkdir(parents=True)  # in the way of the file
    await vibetuner_worker.advance(minutes=1, cron=False)
    assert [letter.task_name for letter in vibetuner_worker.dead_letters] == ["make_document"]
    vibetuner_worker.assert_enqueued(finish_batch, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=2)
    assert "Download all" in (await vibetuner_client.get(f"{batch}/state")).text


async def test_a_document_that_is_cut_off_anywhere_is_counted_once(
    vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = Batch(total=2)
    document = Document(batch_id=batch.id, number="I-0")
    async with open_session() as session:
        session.add(batch)
        await session.flush()
        session.add(document)
        await session.commit()

    async def counted() -> int:
        async with open_session() as session:
            return (await session.get_one(Batch, batch.id)).settled

    async def begin_anew() -> None:
        async with open_session() as session:
            await session.exec(update(Batch).values(settled=0))
            await session.exec(update(Document).values(status="queued"))
            await session.commit()

    await replay_fuzz(make_document, document.id, observe=counted, reset=begin_anew)


async def test_without_an_open_invoice_there_is_no_batch(vibetuner_client: AsyncClient) -> None:
    assert (await vibetuner_client.post("/batches")).status_code == 409
