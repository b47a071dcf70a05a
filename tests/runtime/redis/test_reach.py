"""The connection, the client and the blocking probe read a URL alike."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import string
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from coredis.exceptions import ConnectionError as Disconnected
from coredis.exceptions import RedisError

from tests.listeners import open_proxy
from tests.processes import run_vibetuner, wait_until
from tests.projects import write_shop
from vibetuner.config import Settings
from vibetuner.embedded.folder import valkey_binary
from vibetuner.errors import ServiceUnavailable
from vibetuner.redis.blocking import ask
from vibetuner.redis.client import check, make_client, open_redis
from vibetuner.redis.connection import Connection
from vibetuner.redis.url import Address, Tls, parse_url
from vibetuner.resources.table import probe

PASSWORD = string.printable.strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a server on a socket only, whose user has every printable character in the password."""
    folder = tmp_path_factory.mktemp("reach")
    path = folder / "socket"
    process = subprocess.Popen(
        [valkey_binary(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder],
        stdout=subprocess.DEVNULL,
    )
    try:
        address = Address(path=str(path))

        def answers() -> bool:  # its socket is there a moment before it listens
            with suppress(OSError):
                return bool(ask(address, ["PING"]))
            return False

        wait_until(answers, what=lambda: "an answer")
        rules = ["on", f">{PASSWORD}", "~*", "&*", "+@all"]
        ask(address, ["ACL", "SETUSER", "ann", *rules], ["ACL", "SETUSER", "default", "off"])
        yield path
    finally:
        process.kill()
        process.wait()


async def reach(url: str) -> None:
    """Use the URL by each of the three; raise the first error."""
    address = parse_url(url)
    async with Connection(address) as connection:
        assert await connection.call("SET", "key", "x") == b"OK"
    async with open_redis(Settings(redis_url=url)) as client:
        assert await client.get("key") == "x"
    found = await asyncio.to_thread(ask, address, ["GET", "key"], ["CLIENT", "INFO"])
    assert found[0] == "x"
    assert "user=ann" in str(found[1])
    assert f"db={address.db}" in str(found[1])


async def test_a_password_of_all_characters(server: Path):
    """A password of all characters works before the host or as an option.

    The server is reached by a socket, a host and an IPv6 address.
    """
    word = quote(PASSWORD, safe="")
    await reach(f"unix://ann:{word}@{server}?db=3")
    await reach(f"unix://{server}?username=ann&password={word}")
    async with open_proxy(Address(path=str(server))) as port:
        await reach(f"redis://ann:{word}@127.0.0.1:{port}/3")
        await reach(f"redis://127.0.0.1:{port}?username=ann&password={word}&db=2")
        await reach(f"redis://ann:{word}@[::ffff:127.0.0.1]:{port}")


async def test_a_database_that_the_server_has_not_is_one_line(server: Path):
    """A database that the server lacks is one line, with the server's reason."""
    url = f"unix://ann:{quote(PASSWORD, safe='')}@{server}?db=9999"
    with pytest.raises(ServiceUnavailable, match=r"can't be used: .*(?i:out of range)") as caught:
        await check(Settings(redis_url=url))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an authority, and the certificates of a server and of a client."""
    return make_certificates(tmp_path_factory.mktemp("certificates"), "DNS:localhost")


def make_certificates(folder: Path, name: str, *dates: str) -> Path:
    """Make the certificates for a host of this name; return the folder.

    ``dates`` are options of ``openssl x509`` for the time in which they are valid.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    # Python 3.13 refuses an authority whose certificate doesn't state the use of its key.
    uses = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl(
        *new, "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ours",
        *uses,
    )  # fmt: skip
    (folder / "names").write_text(f"subjectAltName={name}\n")
    for who in ("server", "client"):
        openssl(*new, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl(
            "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            *(dates or ("-days", "2")), "-CAcreateserial", "-out", f"{who}.pem",
            "-extfile", "names",
        )  # fmt: skip
    return folder


@asynccontextmanager
async def encrypted(server: Path, certificates: Path, *, mutual: bool) -> AsyncIterator[int]:
    """Run a proxy with TLS before the server; yield its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    async with open_proxy(Address(path=str(server)), tls=context) as port:
        yield port


async def test_a_url_that_is_wrong_about_tls_is_named(server: Path):
    """The cure for a server without TLS that is asked for it names the right scheme."""
    async with open_proxy(Address(path=str(server))) as port:
        own = Settings(redis_url=f"rediss://127.0.0.1:{port}")
        with pytest.raises(ServiceUnavailable, match=r"without TLS, begin REDIS_URL with redis, "):
            await check(own)
        (redis,) = await probe(own, seconds=0.5)
    assert redis.problem.endswith("without TLS, begin REDIS_URL with redis, not rediss")


async def test_tls_and_whom_it_trusts(server: Path, certificates: Path):
    """A server's certificate must be trusted and be the host's, unless the URL asks for less."""
    user, ca = f"ann:{quote(PASSWORD, safe='')}", f"ssl_ca_certs={certificates}/ca.pem"
    async with encrypted(server, certificates, mutual=False) as port:
        await reach(f"rediss://{user}@localhost:{port}?{ca}")
        await reach(f"rediss://{user}@127.0.0.1:{port}?{ca}&ssl_check_hostname=false")
        for verify in ("none", "CERT_NONE"):
            await reach(f"rediss://{user}@127.0.0.1:{port}?ssl_cert_reqs={verify}")
        for doubtful in (
            f"rediss://{user}@localhost:{port}",
            f"rediss://{user}@127.0.0.1:{port}?{ca}",
        ):
            with pytest.raises(Disconnected, match="(?i)certificate"):
                await reach(doubtful)
            with pytest.raises(ServiceUnavailable, match="(?i)certificate"):
                await check(Settings(redis_url=doubtful))
            with pytest.raises(OSError, match="(?i)certificate"):
                await asyncio.to_thread(ask, parse_url(doubtful), ["PING"])


async def test_a_clients_certificate(server: Path, certificates: Path):
    """The client's certificate in the URL is used if the server asks for one."""
    user, ca = f"ann:{quote(PASSWORD, safe='')}", f"ssl_ca_certs={certificates}/ca.pem"
    own = f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
    async with encrypted(server, certificates, mutual=True) as port:
        await reach(f"rediss://{user}@localhost:{port}?{ca}&{own}")
        with pytest.raises(ServiceUnavailable):
            await check(Settings(redis_url=f"rediss://{user}@localhost:{port}?{ca}"))
        lost = f"rediss://{user}@localhost:{port}?{ca}&ssl_certfile=/nowhere.pem"
        with pytest.raises(ServiceUnavailable, match="ssl_certfile=/nowhere.pem.*No such file"):
            await check(Settings(redis_url=lost))


async def test_each_fault_of_a_certificate_has_its_cure(
    server: Path, certificates: Path, tmp_path: Path
):
    """The client and the probe name the fault, and the part of the URL that cures it."""
    (tmp_path / "old").mkdir()
    expired = make_certificates(tmp_path / "old", "DNS:localhost", "-days", "-1")
    ca = f"ssl_ca_certs={certificates}/ca.pem"

    async def complaint(port: int, options: str, host: str = "localhost") -> str:
        """Return the client's complaint; the probe has the same cure."""
        url = f"rediss://{host}:{port}?{options}"
        with pytest.raises(ServiceUnavailable) as raised:
            await check(Settings(redis_url=url, environment="production"))
        probe = await asyncio.to_thread(
            run_vibetuner, "worker-health", folder=tmp_path, REDIS_URL=url,
            ENVIRONMENT="production", SECRET_KEY=PASSWORD,
        )  # fmt: skip
        text = str(raised.value)
        assert "_ssl.c" not in text
        cure = text.rpartition(". ")[2]
        assert probe.stderr.rstrip().endswith(cure), probe.stderr
        return text

    write_shop(tmp_path)
    async with encrypted(server, certificates, mutual=False) as port:
        text = await complaint(port, ca, host="127.0.0.1")
        assert text.endswith("Write a host of its certificate into REDIS_URL")
        assert "as ssl_ca_certs= " in await complaint(port, "")
        lost = await complaint(port, "ssl_ca_certs=/nowhere.pem")
        assert lost.endswith("Correct the file, or its name in REDIS_URL")
    async with encrypted(server, expired, mutual=False) as port:
        text = await complaint(port, f"ssl_ca_certs={expired}/ca.pem")
        assert text.endswith("Renew the server's certificate")


async def test_a_renewed_certificate_is_used(server: Path, certificates: Path, tmp_path: Path):
    """A client that runs uses a certificate that is renewed under the same name."""
    strange = make_certificates(tmp_path, "DNS:localhost")
    user, ca = f"ann:{quote(PASSWORD, safe='')}", f"ssl_ca_certs={certificates}/ca.pem"
    own = f"ssl_certfile={strange}/client.pem&ssl_keyfile={strange}/client.key"
    async with encrypted(server, certificates, mutual=True) as port:
        settings = Settings(redis_url=f"rediss://{user}@localhost:{port}?{ca}&{own}")
        async with make_client(settings) as client:
            with pytest.raises((RedisError, OSError)):
                await client.ping()
            for name in ("client.pem", "client.key"):
                shutil.copy(certificates / name, strange / name)
            assert await client.ping()


@pytest.mark.parametrize("is_folder", [False, True])
def test_connections_share_a_context_until_a_file_changes(
    certificates: Path, tmp_path: Path, is_folder: bool
):
    """A new context reads the system's authorities, and the event loop waits meanwhile."""
    strange = make_certificates(tmp_path, "DNS:localhost")
    (used := tmp_path / "used").mkdir()
    shutil.copy(strange / "ca.pem", used)
    tls = Tls(ca_certs=str(used if is_folder else used / "ca.pem"))
    first = tls.context()
    assert replace(tls).context() is first
    assert Tls().context() is not first
    shutil.copy(certificates / "ca.pem", used)
    assert tls.context() is not first


@pytest.mark.slow
def test_the_health_probe_reads_the_same_url(tmp_path: Path, server: Path):
    """`worker-health` reads the same URLs, and gets as far as to find no worker."""
    shop = write_shop(tmp_path / "shop")
    url = f"unix://{server}?username=ann&password={quote(PASSWORD, safe='')}"
    done = run_vibetuner("worker-health", folder=shop, seconds=60, REDIS_URL=url)
    assert "No live worker" in done.stderr
    done = run_vibetuner(
        "worker-health", folder=shop, seconds=60, REDIS_URL="redis://h?ssl_cert_reqs=none"
    )
    assert done.returncode == 1
    assert "ssl_cert_reqs is of no use without TLS" in done.stderr
    assert "Traceback" not in done.stderr
