"""The form of a message as it is sent."""

from __future__ import annotations

import re
import socket
from datetime import UTC, datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vibetuner.errors import MailError
from vibetuner.services.message import compose, mailbox

SMUGGLERS = st.sampled_from(
    [*"\r\n\0\t\v\f\x1b\x7f\x85\u2028\u2029\ud800", "=?utf-8?q?=0aBcc:_v@example.com?="]
)
# Names of people: any printable characters but the brackets that end a name.
PRINTABLE = st.characters(exclude_categories=("C", "Z"), include_characters=" ")
NAMES = st.text(PRINTABLE.filter(lambda character: character not in "<>"), max_size=120).filter(
    lambda text: "=?" not in text
)


def message(**parts) -> EmailMessage:
    return compose(
        **{
            "sender": Address(addr_spec="shop@example.com"),
            "to_email": "ann@example.com",
            "subject": "Welcome!",
            "html_content": "<p>Hello</p>",
            **parts,
        }
    )


def received(sent: EmailMessage) -> EmailMessage:
    return BytesParser(EmailMessage, policy=default).parsebytes(sent.as_bytes())


def test_a_message_has_both_parts_in_reading_order():
    """A message has its text first and its HTML last, as readers show the last part they know."""
    arrived = received(message(html_content="<p>Grüße</p>"))
    assert arrived.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in arrived.iter_parts()] == ["text/plain", "text/html"]
    assert [part.get_content().strip() for part in arrived.iter_parts()] == [
        "Grüße",
        "<p>Grüße</p>",
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Rechnung März.pdf", "application/pdf"),
        ("rows.csv", "text/csv"),
        ("photo.jpeg", "image/jpeg"),
        ("what", "application/octet-stream"),
        ("rows.csv.gz", "application/octet-stream"),
        ("answer.eml", "application/octet-stream"),
    ],
)
def test_a_file_arrives_as_it_was(name, kind):
    """An attachment keeps its bytes and name, has the type of its suffix, and is no text part."""
    content = bytes(range(256)) + b"\r\n.\r\n"
    arrived = received(message(attachments=[(name, content), (name, b"")]))
    files = list(arrived.iter_attachments())
    assert [(file.get_filename(), file.get_content_type()) for file in files] == [(name, kind)] * 2
    assert [file.get_payload(decode=True) for file in files] == [content, b""]
    assert arrived.get_body(("plain",)).get_content().strip() == "Hello"
    assert message(attachments=[(name, content)]).as_bytes().isascii()


def test_a_file_of_a_name_that_breaks_a_line_is_refused():
    """An attachment whose name holds a line break is refused."""
    with pytest.raises(MailError, match="attachments holds a line break"):
        message(attachments=[("a\r\nBcc: v@example.com.pdf", b"")])


def test_a_message_shows_nothing_of_the_machine():
    """A message shows nothing of the machine: its id has the sender's domain, its date is UTC."""
    arrived = received(message())
    assert re.fullmatch(r"<[^@]+@example\.com>", arrived["Message-ID"])
    assert socket.gethostname() not in str(arrived["Message-ID"])
    sent_at = parsedate_to_datetime(arrived["Date"])
    assert sent_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - sent_at) < timedelta(minutes=1)


def test_only_seven_bits_and_short_lines_travel():
    """A message consists of short lines in ASCII, which any server passes on unchanged."""
    wire = message(subject="é" * 300, html_content="<p>" + "ü" * 5000 + "</p>").as_bytes()
    wire.decode("ascii")
    assert max(len(line) for line in wire.split(b"\r\n")) <= 998
    assert b"\n" not in wire.replace(b"\r\n", b"")


@given(st.text(PRINTABLE, max_size=200).filter(lambda text: "=?" not in text))
@example("Ihre Bestellung ist unterwegs: 「ご注文」 🚚")
def test_a_subject_arrives_as_it_was_written(subject):
    """A subject of any script and length arrives as it was written."""
    arrived = received(message(subject=subject))
    assert arrived["Subject"].strip() == subject.strip()


@given(NAMES)
@example("Jörg Müller, Straße 1; (Hof) " + "ß" * 90)
@example('Dwayne "The Rock" Johnson')
@example("Ann, bob@evil.example")
def test_a_name_arrives_as_one_address(name):
    """A name, even with a comma or an @, makes only one recipient."""
    arrived = received(message(to_email=f"{name} <ann@example.com>"))
    assert [address.addr_spec for address in arrived["To"].addresses] == ["ann@example.com"]


@given(
    field=st.sampled_from(["to_email", "subject", "reply_to"]),
    before=st.text(max_size=20),
    smuggler=SMUGGLERS,
    after=st.one_of(st.text(max_size=20), st.just("Bcc: victim@example.com")),
)
@example(field="subject", before="Hi", smuggler="\n", after="Bcc: victim@example.com")
@example(field="to_email", before="ann@example.com", smuggler="\r\n", after="")
def test_no_header_can_be_smuggled_in(field, before, smuggler, after):
    """A line break or control character in any header, even encoded, is refused in one line."""
    with pytest.raises(MailError) as caught:
        message(**{field: before + smuggler + after})
    assert len(str(caught.value).splitlines()) == 1


@given(
    field=st.sampled_from(["to_email", "subject", "reply_to"]),
    value=st.lists(
        st.one_of(
            st.text(max_size=20),
            SMUGGLERS,
            st.sampled_from(["a@example.com", "<", ">", ",", '"', "=?utf-8?b?Cg==", "?=", "Bcc: "]),
        ),
        max_size=5,
    ).map("".join),
)
def test_whatever_is_passed_never_adds_a_header(field, value):
    """Any value is refused, or makes a message with exactly the usual headers."""
    try:
        arrived = received(message(**{field: value}))
    except MailError:
        return
    expected = ["Subject", "From", "To", "Date", "Message-ID", "MIME-Version", "Content-Type"]
    assert set(arrived.keys()) - {"Reply-To"} == set(expected)
    assert len(arrived["To"].addresses) == 1


@pytest.mark.parametrize(
    "address",
    [
        *("", "ann", "@example.com", "ann@", "ann@@example.com", "a b@example.com"),
        *("ann@example..com", "ann@example.com, bob@example.com", "<ann@example.com", "Ann <>"),
        *("ann@example.com>", "Ann <ann@example.com> <bob@example.com>", "ann@-example.com"),
    ],
)
def test_a_malformed_address_is_refused(address):
    """A malformed address is refused with its field and an example."""
    with pytest.raises(MailError, match=r"^Email: to_email is not an address: .+name@example\.com"):
        message(to_email=address)


@pytest.mark.parametrize(
    ("written", "name", "address"),
    [
        ("ann@example.com", "", "ann@example.com"),
        ("ann@localhost", "", "ann@localhost"),
        ("ann@shop.test", "", "ann@shop.test"),
        ("Ann Lee <ann@example.com>", "Ann Lee", "ann@example.com"),
        ("Ann's Co., Ltd. <ann@example.com>", "Ann's Co., Ltd.", "ann@example.com"),
        (r'"Ann \"Bo\" Lee" <ann@example.com>', 'Ann "Bo" Lee', "ann@example.com"),
        ("Zoë <zoe@bücher.example>", "Zoë", "zoe@xn--bcher-kva.example"),
    ],
)
def test_an_address_may_carry_a_name(written, name, address):
    """An address may have a name, and an international domain becomes ASCII."""
    parsed = mailbox("to_email", written)
    assert (parsed.display_name, parsed.addr_spec) == (name, address)


def test_half_a_character_in_the_content_is_refused():
    """A lone surrogate in the content is refused, as it can't be encoded."""
    with pytest.raises(MailError, match="lone surrogate"):
        message(html_content="<p>\ud83d</p>")
