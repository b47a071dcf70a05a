"""Passwords in URLs are masked in every text that leaves the process."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from tests.processes import run_vibetuner
from tests.projects import write_project
from vibetuner.errors import mask_secrets
from vibetuner.logs import JsonFormatter, TextFormatter
from vibetuner.tasks.inspect.shown import shown
from vibetuner.tasks.letters.plain import plain_text, plain_traceback

URLS = [
    "postgresql+asyncpg://ann:hunter2@db:5432/shop",
    "redis://:hunter2@cache:6379/0",
    "redis://:hunter2/with/slashes@cache",
    "redis://ann:hunter2@with@signs@cache",
    "redis://user:password@hunter2@cache",
    "https://hunter2@api.example.com/v1",
    "redis://cache:6379?password=hunter2",
    "host=db user=ann password=hunter2",
    "GET /_unlock-debug?token=hunter2",
    "refused api_key=hunter2",
    "{'user': 'ann', 'password': 'hunter2'}",
    '{"stripe_token": "hunter2"}',
    repr({"password": "it's hunter2"}),
    repr({"password": 'it\'s "hunter2"', "n": 1}),
    '{"password": "\\"hunter2\\\\", "n": 1}',
    "{'token': b'hunter2'}",
    "SECRET_KEY=hunter2",
    "Command '['dump', '--token=hunter2']' returned non-zero exit status 1.",
    "{'private_key': 'hunter2'}",
    "Authorization: Bearer hunter2",
    "{'authorization': 'Basic hunter2'}",
]


def fail() -> None:
    """Raise an error that has a password in its text."""
    raise OSError(f"no route to {URLS[0]}")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("around", ["{}", "can't reach '{}': refused", '{{"url": "{}", "n": 1}}'])
def test_a_password_is_masked_in_any_text(url: str, around: str):
    """A password is masked alone, in a sentence and in JSON, and the text after it is kept."""
    masked = mask_secrets(around.format(url))

    assert "hunter2" not in masked
    assert "***" in masked
    assert masked.endswith(around.format("|").partition("|")[2])


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.com/@ann",
        "a@b.example",
        "x == y",
        "f(password=password)",
        "password: use at least 12 characters",
        "{'key': 'id'}",
        "Add to .env:  SMTP_URL=smtp://user:password@host:587",
        "postgresql+asyncpg://user:password@host/name, found a value that is not shown",
    ],
)
def test_other_text_is_left_alone(text: str):
    """Addresses, names and the placeholders of examples are not masked."""
    assert mask_secrets(text) == text


@pytest.mark.parametrize("formatter", [TextFormatter(colourful=False), JsonFormatter("web")])
def test_log_lines_and_tracebacks_hide_passwords(formatter: logging.Formatter):
    """Text and JSON logs mask passwords in the message and in the traceback."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("shop")
    logger.addHandler(handler)
    try:
        fail()
    except OSError:
        logger.exception("could not reach %s", URLS[1])

    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("***@") == 2


def test_records_of_tasks_hide_passwords():
    """Passwords in errors, tracebacks and arguments are masked in the journal and dead letters."""
    try:
        fail()
    except OSError as error:
        texts = [plain_text(error), plain_traceback(error), shown({"url": URLS[1]})]

    assert all("***@" in text and "hunter2" not in text for text in texts)


def test_a_command_that_fails_hides_passwords(tmp_path: Path):
    """An unexpected error of the project is masked in a command's output."""
    root = write_project(tmp_path / "shop", tune=f'raise RuntimeError("at {URLS[0]}")')
    done = run_vibetuner("db", "create-schema", folder=root)

    assert done.returncode == 1
    assert "***@db:5432" in done.stderr
    assert "hunter2" not in done.stderr
