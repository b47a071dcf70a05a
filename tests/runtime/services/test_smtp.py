"""The SMTP mailer, against a real server on a real socket."""

from __future__ import annotations

from datetime import timedelta
from email.headerregistry import Address
from email.message import EmailMessage

import pytest

from vibetuner.errors import MailError, MailRefused, ServiceUnavailable, SettingsError
from vibetuner.services.message import compose
from vibetuner.services.smtp import SmtpMailer, SmtpServer


def message(**parts) -> EmailMessage:
    return compose(
        **{
            "sender": Address("Shop", addr_spec="shop@example.com"),
            "to_email": "Ann <ann@example.com>",
            "subject": "Welcome!",
            "html_content": "<p>Hello</p>",
            **parts,
        }
    )


def mailer(server, login: str = "", *, options: str = "", scheme: str = "smtp", tls=None):
    url = f"{scheme}://{login}127.0.0.1:{server.port}{options}"
    return SmtpMailer(SmtpServer.from_url(url), tls_context=tls)


def one_line(error) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


async def test_a_message_arrives_as_it_was_made(smtp):
    """A message arrives byte for byte, with the addresses in it as its envelope."""
    sent = message(subject="Grüße aus 東京", html_content="<p>.</p>\n.\n..dots")
    await mailer(smtp).send(sent)
    assert smtp.raw == [sent.as_bytes()]
    assert smtp.envelopes == [["<shop@example.com>", "<ann@example.com>"]]
    [arrived] = smtp.messages
    assert arrived["Subject"] == "Grüße aus 東京"


async def test_a_check_logs_in_and_sends_nothing(start_smtp):
    """A check of the server logs in, sends no mail, and names why it fails."""
    async with start_smtp(users={"ann": "right"}) as smtp:
        await mailer(smtp, "ann:right@").check("example.com", 10)
        with pytest.raises(MailRefused, match="refused the login"):
            await mailer(smtp, "ann:wrong@").check("example.com", 10)
        assert smtp.logins == [("ann", "right"), ("ann", "wrong")]
        assert (smtp.greeted_as, smtp.raw) == (["example.com"] * 2, [])
    async with start_smtp(silent=True) as smtp:
        with pytest.raises(ServiceUnavailable, match=r"no answer within 0\.2 s"):
            await mailer(smtp).check("example.com", 0.2)


async def test_the_greeting_does_not_tell_this_machines_name(smtp):
    """The greeting names the sender's domain, and not this machine."""
    await mailer(smtp).send(message())
    assert smtp.greeted_as == ["example.com"]


async def test_a_percent_encoded_login_is_decoded(start_smtp):
    """A user and a password that are percent-encoded in the URL are decoded."""
    async with start_smtp(users={"ann@shop": "p@ss/w:ö"}) as server:
        await mailer(server, "ann%40shop:p%40ss%2Fw%3A%C3%B6@").send(message())
    assert server.logins == [("ann@shop", "p@ss/w:ö")]
    assert len(server.messages) == 1


@pytest.mark.parametrize("echo_login", [False, True])
async def test_a_refused_login_names_the_setting_to_correct(start_smtp, echo_login):
    """A refused login names SMTP_URL, and never the password, even if the server repeats it."""
    async with start_smtp(users={"ann": "right"}, echo_login=echo_login) as server:
        with pytest.raises(MailError) as caught:
            await mailer(server, "ann:wrongpassword@").send(message())
    text = one_line(caught)
    assert "refused the login (535 5.7.8 no" in text
    assert "Correct user and password in SMTP_URL" in text
    assert "wrongpassword" not in text
    assert "AGFubgB3cm9uZ3Bhc3N3b3Jk" not in text


async def test_starttls_is_used_when_offered(start_smtp, server_tls, client_tls):
    """STARTTLS is used if the server offers it, for the login and the message."""
    async with start_smtp(tls=server_tls, users={"ann": "right"}) as server:
        await mailer(server, "ann:right@", tls=client_tls).send(message())
    assert server.encrypted == [True]
    assert server.logins == [("ann", "right")]


async def test_smtps_is_encrypted_from_the_start(start_smtp, server_tls, client_tls):
    """smtps:// is encrypted from the start."""
    async with start_smtp(tls=server_tls, implicit_tls=True) as server:
        await mailer(server, scheme="smtps", tls=client_tls).send(message())
    assert server.encrypted == [True]


@pytest.mark.parametrize("implicit_tls", [False, True])
async def test_an_unknown_certificate_is_not_trusted(start_smtp, server_tls, implicit_tls):
    """A server with an untrusted certificate gets no message, and the error names the cure."""
    scheme = "smtps" if implicit_tls else "smtp"
    async with start_smtp(tls=server_tls, implicit_tls=implicit_tls) as server:
        with pytest.raises(MailError) as caught:
            await mailer(server, scheme=scheme).send(message())
    assert "no trusted connection" in one_line(caught)
    assert "SSL_CERT_FILE" in one_line(caught)
    assert server.raw == []


async def test_starttls_can_be_switched_off(start_smtp, server_tls):
    """The option starttls=off sends a message without encryption, as on a private network."""
    async with start_smtp(tls=server_tls) as server:
        await mailer(server, options="?starttls=off").send(message())
    assert server.encrypted == [False]


async def test_a_password_is_not_sent_over_an_open_line(start_smtp):
    """A password is not sent without encryption to another machine, unless starttls=off.

    Someone in the middle could have removed the server's offer of STARTTLS.
    """
    # Another spelling of loopback stands for a host far away.
    async with start_smtp(users={"ann": "right"}, host="127.0.0.2") as server:
        url = f"smtp://ann:right@127.0.0.2:{server.port}"
        with pytest.raises(MailError, match="the password was not sent"):
            await SmtpMailer(SmtpServer.from_url(url)).send(message())
        assert server.logins == []
        await SmtpMailer(SmtpServer.from_url(f"{url}?starttls=off")).send(message())
    assert server.logins == [("ann", "right")]


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        ({"MAIL": "553 not your address"}, "refused the sender (553 not your address). Set MAIL_F"),
        ({"RCPT": "550 nobody\r\n"}, "refused the recipient (550 nobody). Check the address"),
        ({"DATA": "552-too\r\n552 big"}, "refused the message (552 too big)"),
        ({"EHLO": "554 go away", "HELO": "554 go away"}, "refused the message (554 go away)"),
    ],
)
async def test_a_refusal_is_one_line_with_the_servers_words(start_smtp, refusal, says):
    """A refusal is one line with the server's words and the cure."""
    async with start_smtp(refusals=refusal) as server:
        with pytest.raises(MailRefused) as caught:
            await mailer(server).send(message())
    assert says in one_line(caught)


@pytest.mark.parametrize(
    ("refusal", "wait"),
    [
        ({"RCPT": "450 4.2.0 Greylisted, try again in 5 minutes"}, timedelta(minutes=5)),
        ({"MAIL": "451 4.7.1 retry after 00:01:30"}, timedelta(seconds=90)),
        ({"DATA": "452 4.3.1 no space"}, None),
        ({"EHLO": "451 too busy", "HELO": "451 too busy"}, None),
    ],
)
async def test_a_temporary_refusal_has_its_time_to_wait(start_smtp, refusal, wait):
    """A temporary refusal has the server's time to wait, and blames no address or setting."""
    async with start_smtp(refusals=refusal) as server:
        with pytest.raises(MailError, match="does not take the message for now") as caught:
            await mailer(server).send(message())
    assert not isinstance(caught.value, MailRefused)
    assert "ddress" not in one_line(caught)
    assert caught.value.retry_after == wait


@pytest.mark.parametrize("answers", [{"greeting": "554 closed"}, {"greeting": "\x1b[31mno\x1b[0m"}])
async def test_a_server_that_does_not_answer_properly_is_unavailable(start_smtp, answers):
    """A server without a proper answer is unavailable after the URL's timeout.

    Control characters of its greeting don't reach a terminal.
    """
    async with start_smtp(**answers) as server:
        with pytest.raises(ServiceUnavailable, match="does not answer") as caught:
            await mailer(server, options="?timeout=0.3").send(message())
    assert one_line(caught).isprintable()


async def test_a_server_that_waits_for_tls_is_not_only_to_be_started(start_smtp):
    """A server that waits in silence, as one with TLS does, has smtps among its cures."""
    cure = "Start it, or correct SMTP_URL; if it speaks TLS from the start, begin SMTP_URL with smt"
    async with start_smtp(silent=True) as server:
        with pytest.raises(ServiceUnavailable, match=f"does not answer .*{cure}"):
            await mailer(server, options="?timeout=0.3").send(message())


async def test_a_server_without_a_login_is_not_blamed_for_the_message(smtp):
    """A server that offers no login is named, with three ways out."""
    with pytest.raises(MailError) as caught:
        await mailer(smtp, "ann:right@").send(message())
    assert one_line(caught) == (
        f"Email: 127.0.0.1:{smtp.port} offers no login on this connection. Use smtps in SMTP_URL, "
        "correct its port, or leave out user and password"
    )


@pytest.mark.parametrize(
    ("url", "port", "encryption"),
    [
        ("smtp://mail.example.com", 587, "starttls if offered"),
        ("smtp://mail.example.com:25/", 25, "starttls if offered"),
        ("smtps://mail.example.com", 465, "tls"),
        ("smtp://mailpit:1025?starttls=off", 1025, "off"),
    ],
)
def test_a_url_has_sensible_defaults(url, port, encryption):
    """A URL without a port has that of mail submission."""
    server = SmtpServer.from_url(url)
    assert (server.port, server.encryption, server.timeout) == (port, encryption, 30)


@pytest.mark.parametrize(
    "url",
    [
        *("", "smtp://", "smtp://:secret@", "http://secret@host", "mail.example.com:587"),
        *("smtp://u:secret@host:port", "smtp://u:secret@host:99999", "smtp://u:se/cret@host"),
        *("smtp://u:secret@host/path", "smtp://u:secret@host#x", "smtp://u:%ff@host"),
        *("smtp://host?timeout=0", "smtp://host?timeout=nan", "smtp://host?timeout=1e9"),
        *("smtp://host?timeout=secret", "smtp://host?secret", "smtp://host?secret=1"),
        *("smtp://host?starttls=maybe", "smtps://host?starttls=off", "smtp://a..secret"),
        *("smtp://[::1", "smtp://ho st", "smtp://u:secret@host?timeout=5&timeout="),
    ],
)
def test_an_unreadable_url_is_refused_without_being_quoted(url):
    """A malformed URL is refused without being quoted, as any part may hold a password."""
    with pytest.raises(SettingsError, match=r"^SMTP_URL: expected smtp://") as caught:
        SmtpServer.from_url(url)
    assert "secret" not in one_line(caught)
