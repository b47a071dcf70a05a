from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.cron("0 9 * * *")
async def daily_digest() -> str:
    """Every day at nine, UTC."""
    return "digest sent"
