"""The documentation covers every topic of the guide to background tasks."""

from __future__ import annotations

import re

import pytest

from tests.docs.blocks import PAGES, ROOT

DOCS = ROOT / "docs"
ROW = re.compile(r"^\| ([^|*]+?) \| (.*\[.*\]\(.*) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)?(?:#([^)\s]+))?\)")

# Each topic of the guide, and a text that its page must contain.
TOPICS = {
    "requirements": "REDIS_URL",
    "the package's name in the examples": "src/my_project/",
    "write a first task": "robust_task",
    "list a task in `tune.py`": "VibetunerApp(",
    "enqueue a task from a route": ".enqueue(",
    "start a worker": "just local-all-with-worker",
    "a plain task": "@worker.task()",
    "a time limit": "timeout",
    "the folder of task modules": "src/app/tasks/",
    "the context in a task": "WorkerDepends()",
    "retry a task": "@robust_task(",
    "the parameters of retries": "`backoff_max` | `300.0`",
    "number of tries, and backoff": "backoff_base ** n",
    "dead letters and their fields": "`failed_at`",
    "get notified of failures": "on_failure",
    "run a task on a schedule": "@worker.cron(",
    "the five fields of a schedule": "day of the week",
    "enqueue with arguments": ".enqueue(",
    "status and result": "task.status()",
    "cancel a task": "task.abort()",
    "send events from a task to the browser": "broadcast(",
    "events without Redis": "Without Redis",
    "the page that listens": "sse-connect",
    "the stream's address": "@sse_endpoint(",
    "resources that are opened and closed automatically": "opens MongoDB, SQL and Redis",
    "a lifespan of your own": "base_lifespan()",
    "the worker's page and its port": "11111",
    "the log": "task_id",
    "access to `/debug`": "DEBUG_ACCESS_TOKEN",
    "in development, with reload": "--port",
    "in production, with and without containers": "compose.prod.yml",
    "several workers": "--workers 4",
    "concurrency, queue name, ports": "WORKER_CONCURRENCY",
    "a route that enqueues": "mock_tasks",
    "a task's own logic": "vibetuner_db",
    "Redis is not configured": "Redis not configured",
    "tasks are not run": "worker ready",
    "tasks fail silently": "dead-letters list",
    "scheduled tasks don't run": "Only a worker runs it",
    "architecture": "layer",
    "all commands": "## vibetuner run",
}


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_of_the_guide_has_a_page_that_treats_it(topic: str):
    """topics.md lists each topic and links to a page that contains its text."""
    rows = dict(ROW.findall((DOCS / "topics.md").read_text("utf-8")))
    assert topic in rows

    pages = [DOCS / path for path, _ in LINK.findall(rows[topic])]

    assert pages
    assert any(TOPICS[topic] in page.read_text("utf-8") for page in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_the_files_of_the_repository_hold(page):
    """Each relative link in a page, README and CONTRIBUTING leads to a file and a heading."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)

    broken = [
        f"{path}#{anchor}"
        for path, anchor in LINK.findall(text)
        if not re.match(r"[a-z]+:", path) and not holds(page, path, anchor)
    ]

    assert broken == []


def holds(page, path: str, anchor: str) -> bool:
    """Return whether a file exists and has a heading with the anchor."""
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text("utf-8"))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs both make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_llms_txt_lists_every_page_that_answers_a_question():
    """llms.txt lists every how-to page, and each page once, by its name on the built site."""
    text = (DOCS / "llms.txt").read_text("utf-8")
    listed = [target.replace(".html", ".md") for target in re.findall(r"\]\((\S+)\)", text)]
    how_to = {f"how-to/{path.name}" for path in (DOCS / "how-to").glob("*.md")}

    assert set(listed) >= how_to - {"how-to/index.md"}
    assert [target for target in listed if not (DOCS / target).is_file()] == []
    assert len(listed) == len(set(listed))
