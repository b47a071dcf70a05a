"""`vibetuner doctor` with frozen or full services, and with some that refuse a worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mongo import running_mongo
from tests.processes import free_port, freeze, run_vibetuner
from tests.projects import write_shop
from tests.valkey import Valkey
from vibetuner.redis.blocking import ask
from vibetuner.redis.keys import Keys
from vibetuner.redis.rights import acl_rules
from vibetuner.redis.url import parse_url

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as valkey:
        yield valkey


def test_frozen_services_keep_the_doctor_no_longer_than_one_of_them(tmp_path: Path, server: Valkey):
    """The doctor names each frozen service and what is well, and exits with 1."""
    shop = write_shop(tmp_path / "shop")
    with running_mongo(tmp_path / "documents") as (url, process), server.frozen():
        freeze(process.pid)
        done = run_vibetuner(
            "doctor", "--json", folder=shop, seconds=60, REDIS_URL=server.url, MONGODB_URL=url
        )
    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 1
    silent = {one["area"] for one in findings if "no answer within 3 s" in one["text"]}
    assert silent == {"Redis", "MongoDB"}
    assert any(one["area"] == "project" and one["level"] == "ok" for one in findings)


def test_the_doctor_names_the_rights_that_are_missing(tmp_path: Path, server: Valkey):
    """The doctor names missing rights of Redis with the line that grants them.

    A start of a worker and an enqueue print the same line.
    """
    shop = write_shop(tmp_path / "shop")
    ask(parse_url(server.url), ["ACL", "SETUSER", "ann", "on", ">x", "~*", "+@all", "-fcall"])
    url = server.url.replace("://", "://ann:x@")
    done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, REDIS_URL=url)
    cures = [one["cure"] for one in json.loads(done.stdout)["findings"] if one["area"] == "Redis"]
    assert done.returncode == 1
    assert cures == [
        "Allow it:  ACL SETUSER ann &corner-shop:* &streaq:corner-shop &streaq:corner-shop:*"
    ]
    for command in (
        ("tasks", "enqueue", "add", "--args", "[1, 2]"),
        ("run", "prod", "worker"),
    ):
        refused = run_vibetuner(
            *command,
            folder=shop,
            seconds=60,
            REDIS_URL=url,
            SECRET_KEY="Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5",
        )
        assert refused.returncode == 1
        assert cures[0] in refused.stdout + refused.stderr


def test_the_doctor_names_a_mail_server_that_does_not_answer(tmp_path: Path):
    """The doctor logs in to the mail server, and names one that is away, with the cure."""
    shop, variables = write_shop(tmp_path / "shop"), {"SECRET_KEY": "Wq9-tests-4kJx81_ZrtPq0-LmNv7"}
    url = f"smtp://127.0.0.1:{free_port()}"
    for more, text in (
        ({"SMTP_URL": url}, f"{url[7:]} does not answer (Connection refused)"),
        ({"SMTP_URL": url, "ENVIRONMENT": "production"}, "no sender configured"),
    ):
        done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, **variables, **more)
        (found,) = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "mail"]
        assert (found["level"], found["text"]) == ("error", text)
        assert "SMTP_URL" in found["cure"] or "MAIL_FROM=" in found["cure"]


def test_the_documented_rights_are_enough_for_the_doctor(tmp_path: Path, server: Valkey):
    """With the documented rights, the doctor reads all but the server's configuration.

    A right that an earlier version of that line lacks is named, with the rule that grants it.
    """
    shop, address = write_shop(tmp_path / "shop"), parse_url(server.url)
    rules = acl_rules(Keys("corner-shop"))
    ask(address, ["ACL", "SETUSER", "ann", "on", ">x", *rules])
    url = server.url.replace("://", "://ann:x@")
    done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, REDIS_URL=url)
    found = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "Redis"]
    assert [one["level"] for one in found] == ["ok", "note"]
    (denied,) = ask(address, ["ACL", "LOG"])
    assert {str(entry[entry.index("object") + 1]) for entry in denied} == {"config|get"}  # type: ignore[union-attr]

    ask(address, ["ACL", "SETUSER", "ann", "-type"])
    done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, REDIS_URL=url)
    cures = {one["cure"] for one in json.loads(done.stdout)["findings"] if one["area"] == "Redis"}
    assert "allow it:  ACL SETUSER ann +type" in cures


def test_a_server_that_allows_only_scripts_is_fine(tmp_path: Path, server: Valkey):
    """Of a server that refuses functions, the doctor doesn't say that others replace ours."""
    rules = ["~*", "&*", "+@all", "-function", "-fcall"]
    ask(parse_url(server.url), ["ACL", "SETUSER", "ann", "on", ">x", *rules])
    url = server.url.replace("://", "://ann:x@")
    shop = write_shop(tmp_path / "shop")
    done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, REDIS_URL=url)
    found = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "Redis"]
    assert [one["level"] for one in found] == ["ok", "ok"]


@pytest.mark.parametrize(("percent", "level"), [(95, "warning"), (150, "error")])
def test_the_doctor_reports_how_full_the_memory_is(
    tmp_path: Path, server: Valkey, percent: int, level: str
):
    """The doctor reports how full the memory of Redis is, with the cure."""
    shop = write_shop(tmp_path / "shop")
    address = parse_url(server.url)
    ask(address, ["SET", "big", "x" * (1 << 24)])  # large beside one more connection
    (info,) = ask(address, ["INFO", "memory"])
    used = int(str(info).partition("used_memory:")[2].split()[0])
    ask(address, ["CONFIG", "SET", "maxmemory", str(used * 100 // percent)])
    done = run_vibetuner("doctor", "--json", folder=shop, seconds=60, REDIS_URL=server.url)
    (found,) = [one for one in json.loads(done.stdout)["findings"] if "memory is" in one["text"]]
    assert found["level"] == level
    assert found["cure"].startswith("raise maxmemory")
