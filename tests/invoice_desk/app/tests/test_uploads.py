"""Import of invoices from a CSV file."""

from httpx2 import AsyncClient, Response
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import delete, select, update
from vibetuner.resources.sql import open_session
from vibetuner.testing import ManualWorker, replay_fuzz

from invoice_desk.models import Invoice, Upload
from invoice_desk.tasks.imports import import_invoices

ROWS = [f"I-{n},Ann Lee,ann@example.com,1250,2026-01-31" for n in range(3)]
HEAD = "number,customer,email,cents,due"


async def send(client: AsyncClient, *rows: str) -> Response:
    text = "\n".join([HEAD, *rows])
    return await client.post("/uploads", files={"file": ("invoices.csv", text)})


async def numbers() -> list[str]:
    async with open_session() as session:
        return list(await session.exec(select(Invoice.number).order_by(Invoice.number)))


async def test_a_file_is_imported_in_the_background(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker
) -> None:
    answer = await send(vibetuner_client, *ROWS, ROWS[0])
    assert answer.status_code == 303
    vibetuner_worker.assert_enqueued(import_invoices, times=1)
    await vibetuner_worker.run_until_idle()
    assert await numbers() == ["I-0", "I-1", "I-2"]
    page = await vibetuner_client.get(answer.headers["location"])
    assert f'sse-connect="{answer.headers["location"]}/events"' in page.text


async def test_a_faulty_row_stops_the_import_before_the_first(
    vibetuner_client: AsyncClient, vibetuner_worker: ManualWorker
) -> None:
    await send(vibetuner_client, *ROWS, "../I-9,Ann Lee,ann@example.com,1250,2026-01-31")
    await vibetuner_worker.run_until_idle()
    [letter] = vibetuner_worker.dead_letters
    assert (letter.cause, letter.tries) == ("gave_up", 1)
    assert await numbers() == []


async def test_a_larger_file_is_refused(vibetuner_client: AsyncClient) -> None:
    assert (await send(vibetuner_client, "x" * 20_000_000)).status_code == 413


async def test_an_import_may_be_cut_off_anywhere(vibetuner_sql: AsyncEngine) -> None:
    upload = Upload()
    upload.path.parent.mkdir(parents=True)
    upload.path.write_text("\n".join([HEAD, *ROWS]))
    async with open_session() as session:
        session.add(upload)
        await session.commit()

    async def reset() -> None:
        async with open_session() as session:
            await session.exec(delete(Invoice))
            await session.exec(update(Upload).values(rows=0))
            await session.commit()

    await replay_fuzz(import_invoices, upload.id, observe=numbers, reset=reset)
