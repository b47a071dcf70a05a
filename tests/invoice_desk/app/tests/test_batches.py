"""Documents that are made together."""

from io import BytesIO
from zipfile import ZipFile

from httpx2 import AsyncClient
from vibetuner.testing import ManualWorker, replay_fuzz

from invoice_desk.models import Invoice, batch_folder, document_path
from invoice_desk.tasks.documents import finish_batch, make_document
from invoice_desk.tasks.mails import mail_document


async def test_each_invoice_gets_a_document_and_the_batch_one_end(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = (await vibetuner_client.post("/batches")).headers["location"]
    vibetuner_worker.assert_enqueued(make_document, times=3)
    assert (await vibetuner_client.get(f"{batch}/archive")).status_code == 404
    await vibetuner_worker.run_until_idle()
    vibetuner_worker.assert_enqueued(finish_batch, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=3)
    assert "3 of 3" in (await vibetuner_client.get(f"{batch}/events")).text
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
    document_path(batch.rpartition("/")[2], "I-1").mkdir(parents=True)  # in the way of the file
    await vibetuner_worker.advance(minutes=1, cron=False)
    assert [letter.task_name for letter in vibetuner_worker.dead_letters] == ["make_document"]
    vibetuner_worker.assert_enqueued(finish_batch, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=2)
    assert "event: complete" in (await vibetuner_client.get(f"{batch}/events")).text


async def test_the_end_of_a_batch_is_the_same_wherever_it_is_cut_off(
    vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    for invoice in invoices:
        await make_document("batch", invoice.number)

    async def archived() -> list[str]:
        return sorted(ZipFile(batch_folder("batch").with_suffix(".zip")).namelist())

    await replay_fuzz(finish_batch, "batch", observe=archived)
    keys = {(call.kwargs or call.args) for call in vibetuner_worker.enqueued}
    assert keys == {("batch", f"I-{number}") for number in range(3)}


async def test_without_an_open_invoice_there_is_no_batch(vibetuner_client: AsyncClient) -> None:
    assert (await vibetuner_client.post("/batches")).status_code == 409
