"""A small SMTP server with enough of the protocol for refusals."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path

import pytest

from tests.listeners import open_listener


@dataclass
class SmtpServer:
    """A mail server whose answers can be set, and which keeps all that it receives."""

    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    users: dict[str, str] = field(default_factory=dict)
    echo_login: bool = False
    greeting: str = "220 ready"
    refusals: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    host: str = "127.0.0.1"

    port: int = 0
    greeted_as: list[str] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    envelopes: list[list[str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    conversations: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def messages(self) -> list[EmailMessage]:
        return [BytesParser(EmailMessage, policy=default).parsebytes(raw) for raw in self.raw]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await self.converse(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        if self.silent:
            await reader.read()
            return
        await say(self.greeting)
        envelope: list[str] = []
        while line := (await reader.readline()).decode().strip():
            verb = line.partition(" ")[0].upper()
            if refusal := self.refusal(line):
                await say(refusal)
            elif verb == "EHLO":
                self.greeted_as.append(line.partition(" ")[2])
                await say("\r\n".join(self.abilities(writer)))
            elif verb == "STARTTLS":
                await say("220 go ahead")
                await writer.start_tls(self.tls)
            elif verb == "AUTH":
                await say(self.login(line))
            elif verb in ("MAIL", "RCPT"):
                envelope.append(line.split(":", 1)[1].split()[0])
                await say("250 ok")
            elif verb == "DATA":
                await say("354 go on")
                data = await reader.readuntil(b"\r\n.\r\n")
                self.raw.append(data.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
                self.envelopes.append(envelope)
                self.encrypted.append(writer.get_extra_info("ssl_object") is not None)
                await say("250 kept")
            elif verb == "QUIT":
                await say("221 bye")
                return
            else:
                await say("250 ok")

    def refusal(self, line: str) -> str | None:
        return self.refusals.get(line.partition(" ")[0].upper())

    def abilities(self, writer: asyncio.StreamWriter) -> list[str]:
        starttls = ["250-STARTTLS"] if self.tls and not writer.get_extra_info("ssl_object") else []
        auth = ["250-AUTH PLAIN"] if self.users else []
        return ["250-test", *starttls, *auth, "250 SIZE 1000000"]

    def login(self, line: str) -> str:
        _, user, password = b64decode(line.split()[2]).decode().split("\0")
        self.logins.append((user, password))
        if self.users.get(user) == password:
            return "235 welcome"
        return (
            f"535-5.7.8 no\r\n535 5.7.8 not you{f': {line} {password}' if self.echo_login else ''}"
        )


@contextlib.asynccontextmanager
async def running(server: SmtpServer) -> AsyncIterator[SmtpServer]:
    tls = server.tls if server.implicit_tls else None
    async with open_listener(server.serve, host=server.host, tls=tls) as server.port:
        yield server
        await asyncio.gather(*server.conversations)


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    """Run a server on a free port that takes any mail."""
    async with running(SmtpServer()) as server:
        yield server


@pytest.fixture
def start_smtp():
    """Return a function for a server with its own answers: ``async with start_smtp(users=...)``."""
    return lambda **answers: running(SmtpServer(**answers))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate for localhost, with its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", str(path), "-out", f"{path}.crt"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def client_tls(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate) + ".crt")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Change into an empty folder, so that nothing is kept in the repository."""
    with contextlib.chdir(tmp_path):
        yield tmp_path
