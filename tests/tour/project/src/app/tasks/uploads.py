from vibetuner.sse import broadcast
from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.task()
async def process_upload(file_id: str, user_id: str) -> dict[str, str]:
    """Process a file, and broadcast the progress to its owner's browsers."""
    channel = f"upload:{user_id}"
    await broadcast(channel, "progress", data="started")
    await broadcast(channel, "progress", data="half\nway")
    await broadcast(channel, "complete", data=f"<b>{file_id} is done</b>")
    return {"status": "complete"}
