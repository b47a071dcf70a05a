"""Small projects on disk, with as much as a test needs."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

EMPTY_TUNE = """
    from vibetuner import VibetunerApp

    app = VibetunerApp()
"""

TASKS = """
    import asyncio
    import os

    from vibetuner.tasks.worker import get_worker

    worker = get_worker()


    @worker.task()
    async def add(a: int, b: int) -> int:
        return a + b


    @worker.task(max_tries=2)
    async def fails_twice(secret: str) -> None:
        from streaq import StreaqRetry

        try:
            raise ValueError("the till is empty")
        except ValueError as error:
            if fails_twice.context.tries < 2:
                raise StreaqRetry(delay=0) from error
            raise


    @worker.task()
    async def which_process() -> int:
        return os.getpid()


    @worker.task()
    async def wait_for_ever() -> None:
        await asyncio.sleep(3600)
"""

ROUTES = """
    import os

    from fastapi import APIRouter

    from shop import jobs
    from vibetuner.sse import sse_endpoint

    router = APIRouter()


    @router.get("/")
    async def home() -> dict[str, int]:
        return {"pid": os.getpid()}


    @router.post("/tasks/{name}")
    async def start(name: str, arguments: list[str | int]) -> dict[str, str]:
        task = await getattr(jobs, name).enqueue(*arguments)
        return {"id": task.id}


    @router.get("/tasks/{task_id}")
    async def outcome(task_id: str) -> dict[str, str]:
        result = await jobs.worker.result_by_id(task_id, timeout=30)
        return {"outcome": str(result.result if result.success else result.exception)}


    @sse_endpoint("/events", router=router)
    async def events() -> str:
        return "news"
"""

SHOP_TUNE = """
    from shop.jobs import add, fails_twice, wait_for_ever, which_process
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(tasks=[add, fails_twice, wait_for_ever, which_process], routes=[router])
"""

SHOP = {"jobs.py": TASKS, "routes.py": ROUTES}


def write_project(
    folder: Path,
    files: dict[str, str] | None = None,
    *,
    tune: str | None = EMPTY_TUNE,
    package: str = "shop",
    env: str | None = None,
) -> Path:
    """Write a project into ``folder``; ``files`` and ``tune`` lie below ``src/<package>/``."""
    source = folder / "src" / package
    source.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "corner-shop"\nversion = "1.2.3"\ndescription = "Sells"\n'
        '[tool.vibetuner]\ntitle = "Corner Shop"\n',
        encoding="utf-8",
    )
    contents = {"__init__.py": "", **(files or {})}
    if tune is not None:
        contents["tune.py"] = tune
    for name, text in contents.items():
        write(source / name, text)
    if env is not None:
        (folder / ".env").write_text(env, encoding="utf-8")
    return folder


def write(path: Path, text: str) -> None:
    """Write a file as an editor does, with the folders on the way to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text.removeprefix("\n")), encoding="utf-8")


def write_shop(folder: Path, *, env: str | None = None) -> Path:
    """Write a project with tasks, routes and an event stream."""
    return write_project(folder, SHOP, tune=SHOP_TUNE, env=env)
