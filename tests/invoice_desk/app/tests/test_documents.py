"""A batch of documents, its end and its archive."""

from io import BytesIO
from zipfile import ZipFile

from httpx2 import AsyncClient, Response
from vibetuner.testing import ManualWorker, replay_fuzz

from invoice_desk.models import Invoice, batch_folder, document_path
from invoice_desk.tasks.documents import documents_end, documents_item
from invoice_desk.tasks.mails import mail_document


def batch_of(page: Response) -> str:
    """Return the id of a batch, which its page has in the address of the progress events."""
    return page.text.partition('sse-connect="')[2].partition('"')[0].rpartition("/")[2]


async def test_each_invoice_gets_a_document_and_the_batch_one_end(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = batch_of(await vibetuner_client.post("/documents"))
    vibetuner_worker.assert_enqueued(documents_item, times=3)
    assert (await vibetuner_client.get(f"/documents/{batch}/archive")).status_code == 404
    await vibetuner_worker.run_until_idle()
    vibetuner_worker.assert_enqueued(documents_end, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=3)
    assert "3 of 3" in (await vibetuner_client.get(f"/events/documents/{batch}")).text
    archive = await vibetuner_client.get(f"/documents/{batch}/archive")
    assert sorted(ZipFile(BytesIO(archive.content)).namelist()) == [
        "I-0.html",
        "I-1.html",
        "I-2.html",
    ]


async def test_a_failed_document_does_not_stop_the_batch(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    batch = batch_of(await vibetuner_client.post("/documents"))
    document_path(batch, "I-1").mkdir(parents=True)  # a folder, where the file should be
    await vibetuner_worker.advance(minutes=1, cron=False)
    assert [letter.task_name for letter in vibetuner_worker.dead_letters] == ["documents_item"]
    vibetuner_worker.assert_enqueued(documents_end, times=1)
    vibetuner_worker.assert_enqueued(mail_document, times=2)
    assert "event: complete" in (await vibetuner_client.get(f"/events/documents/{batch}")).text


async def test_the_end_of_a_batch_is_the_same_wherever_it_is_cut_off(
    vibetuner_worker: ManualWorker, invoices: list[Invoice]
) -> None:
    for invoice in invoices:
        await documents_item("batch", invoice.number)

    async def archived() -> list[str]:
        return sorted(ZipFile(batch_folder("batch").with_suffix(".zip")).namelist())

    await replay_fuzz(documents_end, "batch", observe=archived)
    keys = {(call.kwargs or call.args) for call in vibetuner_worker.enqueued}
    assert keys == {("batch", f"I-{number}") for number in range(3)}


async def test_without_an_open_invoice_there_is_no_batch(vibetuner_client: AsyncClient) -> None:
    assert (await vibetuner_client.post("/documents")).status_code == 409
