"""A web app behind nginx as in the guide: https links, client addresses, live events."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.processes import free_port, vibetuner, wait_for_http
from tests.projects import write_project
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

GUIDE = Path(__file__).parents[2] / "docs/how-to/behind-a-proxy.md"
ROUTES = """
    from fastapi import APIRouter, Request

    from vibetuner.sse import broadcast, sse_endpoint

    router = APIRouter()


    @router.get("/seen", name="seen")
    async def seen(request: Request) -> dict[str, str]:
        return {"client": request.client.host, "link": str(request.url_for("seen"))}


    @router.post("/tell")
    async def tell() -> str:
        return await broadcast("news", "news", "hello")


    @sse_endpoint("/news", router=router)
    async def news() -> str:
        return "news"
"""
TUNE = """
    from shop.routes import router
    from vibetuner import VibetunerApp

    app = VibetunerApp(routes=[router])
"""
# The proxy has its own address, like one in another container.
PROXY = "127.0.0.2"
VISITOR = "127.0.0.3"


@pytest.fixture
def proxied(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Yield the addresses of nginx and of the app behind it.

    The parameter is FORWARDED_ALLOW_IPS.
    """
    folder = write_project(tmp_path / "shop", {"routes.py": ROUTES}, tune=TUNE)
    port, front = free_port(), free_port()
    with vibetuner(
        *("run", "prod", "frontend", "--port", str(port)),
        folder=folder,
        log=tmp_path / "log",
        environment={
            "SECRET_KEY": "a key that the tests share, and nobody else",
            "FORWARDED_ALLOW_IPS": request.param,
        },
    ):
        wait_for_http(f"http://127.0.0.1:{port}/health", seconds=60)
        with nginx(tmp_path, port, front):
            yield f"https://127.0.0.1:{front}", f"http://127.0.0.1:{port}"


@contextmanager
def nginx(folder: Path, port: int, front: int) -> Iterator[None]:
    """Run nginx with the guide's configuration, on this test's addresses and files."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    (server,) = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{front} ssl",
        "/etc/ssl/shop.pem": str(certificate),
        "/etc/ssl/shop.key": str(key),
        "http://127.0.0.1:8000;": f"http://127.0.0.1:{port}; proxy_bind {PROXY};",
        "server_name shop.example.com": "server_name 127.0.0.1",
    }.items():
        assert old in server
        server = server.replace(old, new)
    places = "".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {places}\n{server}}}\n"
    )
    process = subprocess.Popen(
        ["nginx", "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(configuration)],
        stdin=subprocess.DEVNULL,
    )
    try:
        with visitor() as client:
            wait_until(
                lambda: answers(client, f"https://127.0.0.1:{front}/health"), what=lambda: "nginx"
            )
        yield
    finally:
        process.terminate()
        process.wait(60)


def answers(client: httpx2.Client, url: str) -> bool:
    """Return whether the page can be reached."""
    try:
        return client.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def visitor() -> httpx2.Client:
    """Return a client that has its own address, accepts any certificate and forges headers."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    transport = httpx2.HTTPTransport(local_address=VISITOR, verify=context)
    forged = {"X-Forwarded-For": "10.9.9.9", "X-Forwarded-Proto": "gopher"}
    return httpx2.Client(transport=transport, headers=forged, timeout=10)


@pytest.mark.parametrize("proxied", ["127.0.0.1,127.0.0.2/32"], indirect=True)
def test_behind_a_trusted_proxy_links_are_https_and_the_visitor_is_known(proxied: tuple[str, str]):
    """The headers of a trusted proxy set the scheme and the client's address.

    Headers that the visitor forges don't get through, and events arrive at once.
    """
    front, _ = proxied
    with visitor() as client:
        seen = client.get(f"{front}/seen").json()
        assert seen["client"] == VISITOR
        assert seen["link"].startswith("https://127.0.0.1")

        with client.stream("GET", f"{front}/news") as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            lines = stream.iter_lines()
            assert client.post(f"{front}/tell").status_code == 200
            assert next(line for line in lines if line.startswith("data:")) == "data: hello"


@pytest.mark.parametrize("proxied", ["127.0.0.1"], indirect=True)
def test_headers_of_an_untrusted_proxy_are_ignored(proxied: tuple[str, str]):
    """Forwarded headers from an address that FORWARDED_ALLOW_IPS doesn't list change nothing."""
    front, behind = proxied
    with visitor() as client:
        assert client.get(f"{front}/seen").json()["client"] == PROXY
        assert client.get(f"{behind}/seen").json() == {
            "client": VISITOR,
            "link": f"{behind}/seen",
        }
