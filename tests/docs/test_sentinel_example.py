"""The Sentinel example of docs/how-to/deploy.md, in three folders instead of three machines."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import ROOT
from tests.processes import free_port
from tests.template.test_deployment import check_schema
from tests.waiting import wait_until
from vibetuner.config import Settings
from vibetuner.embedded.folder import valkey_binary
from vibetuner.redis.blocking import RefusedError, ask
from vibetuner.redis.client import check
from vibetuner.redis.url import Address, parse_url

PAGE = (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## On more machines, with Sentinels")[2].partition("\n## ")[0]
SECRETS = re.search(r"```bash\n(mkdir .*?)```", SECTION, re.DOTALL)
COMPOSE = re.search(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
URL = re.search(r"```text\n(redis\+sentinel://\S+)\n```", SECTION)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[tuple[int, int]]]:
    """Run each machine's server and Sentinel as the page does; yield their ports."""
    assert SECRETS is not None
    assert COMPOSE is not None
    services = yaml.safe_load(COMPOSE[1])["services"]
    ports = [(free_port(), free_port()) for _ in range(3)]
    processes: list[subprocess.Popen[bytes]] = []
    first = f"127.0.0.1 {ports[0][0]}"
    try:
        for number, (server, sentinel) in enumerate(ports):
            folder = tmp_path / str(number)
            for name in ("valkey", "sentinel"):
                (folder / f"{name}-data").mkdir(parents=True)
            typed = SECRETS[1].replace("10.0.0.1 6379", first)
            subprocess.run(["sh", "-ec", typed], cwd=folder, check=True)
            with (folder / "secrets/sentinel_conf").open("a") as file:
                file.write(f"port {sentinel}\nbind 127.0.0.1\n")
            for name, more in (
                ("valkey", ["--port", str(server), "--bind", "127.0.0.1"]),
                ("sentinel", []),
            ):
                variables = {"MACHINE": "127.0.0.1", **({"FIRST": first} if number else {})}
                command = [
                    written(part, variables, folder, name) for part in services[name]["command"]
                ]
                processes.append(
                    subprocess.Popen(
                        [*command, *more], cwd=folder / f"{name}-data", stdout=subprocess.DEVNULL
                    )
                )
        yield ports
    finally:
        for process in processes:
            process.kill()
            process.wait()


def written(part: str, variables: dict[str, str], folder: Path, name: str) -> str:
    """Return a part of a command as Compose passes it, with paths of this folder."""

    def value(match: re.Match[str]) -> str:
        default = (match[2] or "").removeprefix(":-")
        return variables.get(match[1], default)

    part = re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", value, part)
    part = part.replace("/run/secrets", str(folder / "secrets"))
    part = part.replace("/data/", f"{folder}/{name}-data/")
    return re.sub(r"\bvalkey-server\b", str(valkey_binary()), part)


@pytest.mark.slow
def test_the_example_is_three_servers_that_follow_each_other(machines: list[tuple[int, int]]):
    """Both replicas of the example follow the primary, and the page's URL leads to it."""
    assert URL is not None
    url = URL[1]
    for number, (_, sentinel) in enumerate(machines, 1):
        url = url.replace(f"10.0.0.{number}:26379", f"127.0.0.1:{sentinel}")
        wait_until(lambda port=sentinel: known(port) == (2, 2), what=lambda: "Sentinels")

    asyncio.run(check(Settings(redis_url=url)))
    info = str(ask(parse_url(url), ["INFO", "replication"]))
    assert info.count("state=online") == 2
    aof = str(ask(parse_url(url), ["INFO", "persistence"]))
    assert "aof_enabled:1" in aof


def known(port: int) -> tuple[int, int]:
    """Return how many replicas and other Sentinels a Sentinel knows."""
    try:
        (found,) = ask(Address(host="127.0.0.1", port=port), ["SENTINEL", "MASTER", "mymaster"])
    except (OSError, RefusedError):
        return 0, 0
    assert isinstance(found, list)
    fields = dict(zip(map(str, found[::2]), found[1::2], strict=True))
    return int(str(fields["num-slaves"])), int(str(fields["num-other-sentinels"]))


def test_the_compose_file_is_valid(tmp_path: Path):
    """The Compose file fits the specification's schema, which would report a wrong key."""
    assert COMPOSE is not None
    file = tmp_path / "compose.redis.yml"
    file.write_text(COMPOSE[1])
    assert check_schema("vendor.compose-spec", file).startswith("ok")
    file.write_text(COMPOSE[1].replace("network_mode", "networkmode"))
    with pytest.raises(AssertionError, match="networkmode"):
        check_schema("vendor.compose-spec", file)


@pytest.mark.parametrize("page", ["deploy.md", "more-machines.md", "scaling.md"])
def test_every_url_of_redis_can_be_read(page: str):
    """Each Redis URL on the pages can be parsed as REDIS_URL."""
    text = (ROOT / "docs/how-to" / page).read_text(encoding="utf-8")
    found = re.findall(r"\b(?:rediss?(?:\+\w+)?://[^\s`'\"()…]+)", text)
    urls = [url for url in found if "$" not in url and "@" in url]
    assert urls
    for url in urls:
        assert parse_url(url, "{shop}:").password
