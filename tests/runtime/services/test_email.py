"""The function send_email, as a task calls it."""

from __future__ import annotations

import contextlib
import logging
import socket
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default

import pytest
import time_machine

from vibetuner.config import Settings, using_settings
from vibetuner.errors import MailError, NotConfigured, ServiceUnavailable, SettingsError
from vibetuner.services.email import Mailer, choose_mailer, send_email

WELCOME = {"to_email": "ann@example.com", "subject": "Welcome!", "html_content": "<h1>Hello</h1>"}


@contextlib.contextmanager
def settings(**values):
    with using_settings(Settings(**{"secret_key": "s" * 32, **values})) as current:
        yield current


def kept(folder) -> list[EmailMessage]:
    """Return the messages in the project's outbox, oldest first."""
    files = sorted((folder / ".vibetuner" / "outbox").iterdir())
    return [BytesParser(EmailMessage, policy=default).parsebytes(f.read_bytes()) for f in files]


@pytest.mark.parametrize("environment", ["development", "test", "production"])
async def test_a_server_that_is_named_gets_the_mail_everywhere(elsewhere, smtp, environment):
    """A mail goes to the server in SMTP_URL, in every environment."""
    url = f"smtp://127.0.0.1:{smtp.port}"
    with settings(environment=environment, smtp_url=url, mail_from="Shop <shop@example.com>"):
        await send_email(**WELCOME)
    [message] = smtp.messages
    assert message["Subject"] == "Welcome!"
    assert message["To"] == "ann@example.com"
    assert message["From"] == "Shop <shop@example.com>"
    assert smtp.envelopes == [[["FROM", "<shop@example.com>"][1], "<ann@example.com>"]]
    assert not (elsewhere / ".vibetuner").exists()


@pytest.mark.parametrize("environment", ["development", "test"])
async def test_without_a_server_mail_is_kept_in_the_outbox(elsewhere, caplog, environment):
    """Without SMTP_URL, a mail is kept in the outbox, and a line in the log names its file."""
    with settings(environment=environment), caplog.at_level(logging.INFO):
        await send_email(**WELCOME)
    [message] = kept(elsewhere)
    assert message.get_body(("html",)).get_content().strip() == "<h1>Hello</h1>"
    assert message.get_body(("plain",)).get_content().strip() == "Hello"
    [record] = caplog.records
    assert record.getMessage().startswith("mail to ann@example.com: Welcome!, kept in ")
    assert record.getMessage().endswith(".eml")


async def test_the_outbox_keeps_the_order_of_sending(elsewhere):
    """The files in the outbox sort by the time of sending, and none replaces another."""
    with settings():
        for number in range(20):
            await send_email(**{**WELCOME, "subject": str(number)})
    assert [message["Subject"] for message in kept(elsewhere)] == [str(n) for n in range(20)]


@pytest.mark.parametrize(("debug", "printed"), [(True, "Hello\n"), (False, "")])
async def test_debug_prints_what_the_mail_says(elsewhere, capsys, debug, printed):
    """DEBUG prints the text of a mail in the terminal."""
    with settings(debug=debug):
        await send_email(**WELCOME)
    assert capsys.readouterr().out == printed


async def test_the_outbox_keeps_the_order_when_a_test_stops_the_clock(elsewhere):
    """Mails that are sent at one moment by the clock are in the order of sending, too."""
    subjects = [str(number) for number in range(9)]
    with settings(), time_machine.travel("2030-01-01 12:00 +0000", tick=False):
        for subject in subjects:
            await send_email(**{**WELCOME, "subject": subject})
    assert [message["Subject"] for message in kept(elsewhere)] == subjects


async def test_an_outbox_that_is_not_a_folder_is_one_line(elsewhere):
    """An outbox that is no folder is one line with its path and the cure."""
    (elsewhere / ".vibetuner").mkdir()
    (elsewhere / ".vibetuner" / "outbox").write_text("in the way")
    with settings(), pytest.raises(MailError, match=r"outbox can't be written to \(.+\)\. Make"):
        await send_email(**WELCOME)


async def test_production_without_a_server_names_the_line_to_add(elsewhere):
    """Production without SMTP_URL is an error with the line to add, and keeps no mail."""
    with settings(environment="production"), pytest.raises(NotConfigured) as caught:
        await send_email(**WELCOME)
    assert str(caught.value) == (
        "Email: SMTP not configured. Add to .env:  SMTP_URL=smtp://user:password@host:587"
    )


async def test_production_without_a_sender_names_the_line_to_add(elsewhere, smtp):
    """Production without MAIL_FROM is an error with the line to add."""
    values = {"environment": "production", "smtp_url": f"smtp://127.0.0.1:{smtp.port}"}
    with settings(**values), pytest.raises(NotConfigured, match=r"MAIL_FROM=team@example\.com"):
        await send_email(**WELCOME)


async def test_development_sends_in_the_projects_name(elsewhere):
    """Without MAIL_FROM, the project's slug is the sender."""
    (elsewhere / "src" / "corner_shop").mkdir(parents=True)
    (elsewhere / "src" / "corner_shop" / "tune.py").touch()
    (elsewhere / "pyproject.toml").write_text('[project]\nname = "corner-shop"\n')
    with settings():
        await send_email(**WELCOME)
    [message] = kept(elsewhere)
    assert message["From"] == "corner-shop@localhost"


async def test_a_script_outside_any_project_can_send_too(elsewhere):
    """Outside a project, a mail is kept, with vibetuner as the sender."""
    with settings():
        await send_email(**WELCOME)
    [message] = kept(elsewhere)
    assert message["From"] == "vibetuner@localhost"


async def test_sender_reply_to_and_text_can_be_given(elsewhere):
    """A given text, sender and reply address take precedence over the derived ones."""
    with settings(mail_from="shop@example.com"):
        await send_email(
            **WELCOME,
            text_content="In my own words",
            from_email="Bob <bob@example.com>",
            reply_to="help@example.com",
        )
    [message] = kept(elsewhere)
    assert message["From"] == "Bob <bob@example.com>"
    assert message["Reply-To"] == "help@example.com"
    assert message.get_body(("plain",)).get_content().strip() == "In my own words"


async def test_files_are_attached(elsewhere):
    """Attachments are read when the mail is sent; if one is missing, no mail is sent."""
    path = elsewhere / "terms.txt"
    path.write_text("our terms", "utf-8")
    await send_email(**WELCOME, attachments=[path])
    with pytest.raises(FileNotFoundError, match=r"gone\.pdf"):
        await send_email(**WELCOME, attachments=[path, elsewhere / "gone.pdf"])
    [message] = kept(elsewhere)
    [file] = message.iter_attachments()
    assert (file.get_filename(), file.get_payload(decode=True)) == ("terms.txt", b"our terms")


async def test_a_malformed_sender_is_named_as_the_setting(elsewhere):
    """A malformed sender is refused with the name MAIL_FROM."""
    with settings(mail_from="shop@@example.com"), pytest.raises(MailError, match="MAIL_FROM"):
        await send_email(**WELCOME)


async def test_a_server_that_is_down_is_unavailable(elsewhere):
    """An unreachable server is one line, without the password."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"smtp://ann:hunter2@127.0.0.1:{unused.getsockname()[1]}"
        with settings(smtp_url=url), pytest.raises(ServiceUnavailable) as caught:
            await send_email(**WELCOME)
    assert "does not answer (Connection refused). Start it, or correct" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreadable_server_url_is_never_quoted(elsewhere):
    """A malformed SMTP_URL is refused without being quoted, as it may hold a password."""
    current = Settings(smtp_url="smtp://ann:hun/ter2@host")
    with pytest.raises(SettingsError, match="percent-encode") as caught:
        choose_mailer(current)
    assert "ter2" not in str(caught.value)


async def test_the_password_shows_in_no_repr(elsewhere):
    """The repr of a mailer shows no user and no password."""
    mailer: Mailer = choose_mailer(Settings(smtp_url="smtp://ann:hunter2@host"))
    assert "hunter2" not in repr(mailer)
    assert "ann" not in repr(mailer)
