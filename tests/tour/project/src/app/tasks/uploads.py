from vibetuner.sse import broadcast
from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.task()
async def process_upload(file_id: str, user_id: str) -> dict[str, str]:
    """Work on a file, and tell its owner's browser how far it is."""
    channel = f"upload:{user_id}"
    await broadcast(channel, "progress", data="started")
    await broadcast(channel, "progress", data="half\nway")
    await broadcast(channel, "complete", data=f"<b>{file_id} is done</b>")
    return {"status": "complete"}
