from vibetuner.tasks.worker import get_worker

worker = get_worker()


@worker.cron("0 9 * * *")
async def daily_digest() -> str:
    """Run every day at 09:00 UTC."""
    return "digest sent"
