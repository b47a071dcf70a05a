"""Error messages suggest a cure that fits the command, the environment and the project."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from tests.processes import free_port, run_vibetuner
from vibetuner.app import VibetunerApp
from vibetuner.cli.ports import listen
from vibetuner.config import Settings, using_settings
from vibetuner.errors import CommandError, NotConfigured, explain_unusable
from vibetuner.models import UserModel
from vibetuner.redis import redis_client
from vibetuner.redis.client import unavailable
from vibetuner.resources.mongo import unreachable
from vibetuner.resources.slots import mongo_database, sql_engine
from vibetuner.resources.table import find_unset
from vibetuner.state import Slot


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name"), [("dev", "development"), ("prod", "production")])
def test_a_missing_worker_is_reported_with_the_same_cure_everywhere(
    shop: Path, environment: dict[str, str], mode: str, name: str
):
    """Each command suggests `run dev worker` in development and `run prod worker` in production."""
    environment["ENVIRONMENT"] = name
    enqueued = run_vibetuner(
        "tasks", "enqueue", "add", "--args", "[1, 2]", folder=shop, **environment
    )
    task_id = enqueued.stdout.split()[0]

    for command in (["doctor"], ["worker-health"], ["tasks", "stats"], ["tasks", "why", task_id]):
        done = run_vibetuner(*command, folder=shop, **environment)
        assert f"vibetuner run {mode} worker" in done.stdout + done.stderr, command


@pytest.mark.slow
def test_production_refuses_the_embedded_redis(shop: Path, environment: dict[str, str]):
    """`run prod` refuses REDIS_URL=embedded in every ENVIRONMENT; others, in production only."""
    for command, name in (
        (["run", "prod", "worker"], "development"),
        (["run", "prod", "worker"], "production"),
        (["worker-health"], "production"),
        (["tasks", "stats"], "production"),
    ):
        environment |= {"REDIS_URL": "embedded", "ENVIRONMENT": name}
        done = run_vibetuner(*command, folder=shop, **environment)
        assert (done.returncode, done.stderr) == (
            1,
            "error: REDIS_URL=embedded is for development and tests; ENVIRONMENT=production needs "
            "the URL of a real server. Set, for example:  REDIS_URL=redis://valkey:6379\n",
        ), command


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("NOAUTH Authentication required.", "Correct the user and the password in SHOP_URL"),
        ('password authentication failed for user "app"', "Correct the user and the password in"),
        ("Authentication failed.", "Correct the user and the password in SHOP_URL"),
        ("READONLY You can't write against a read only replica.", "Point SHOP_URL at the primary"),
        ('database "shop" does not exist', "Create it, or correct SHOP_URL"),
        ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] required", "Name the client's in"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca", "Take a valid certificate for"),
        (
            "ssl_certfile=/a can't be used: No such file",
            "Correct the file, or its name in SHOP_URL",
        ),
        ("(sqlite3.OperationalError) database or disk is full", "Make room on its disk"),
        ("(sqlite3.OperationalError) disk I/O error", "Make room on its disk, or check the disk"),
        ("[Errno 111] Connection refused", "Start it, or correct SHOP_URL"),
    ],
)
def test_a_server_that_refuses_has_another_cure_than_one_that_is_down(reason: str, cure: str):
    """A server that refuses has the cure of its refusal, not the advice to start it."""
    line = explain_unusable("A server", "SHOP_URL", "x://ann:y@z", reason, environment="production")

    assert line.startswith(f"A server at x://***@z can't be used: {reason.rstrip('.')}. {cure}")


@pytest.mark.parametrize("form", ["redis+sentinel://a/shop", "rediss+cluster://a"])
def test_a_primary_that_is_being_replaced_is_waited_for(form: str):
    """A URL that leads to the primary by itself need not be corrected when it is read-only."""
    reason = "READONLY You can't write against a read only replica."
    line = explain_unusable("Redis", "REDIS_URL", form, reason, environment="production")

    assert line.endswith("read only replica. Wait until another server is the primary")


def test_an_embedded_server_that_does_not_answer_has_its_state_as_the_cure():
    """The cure for an embedded server is not to set the value that it has."""
    late = ("MongoDB", "MONGODB_URL", "embedded", "no answer within 10 s")

    assert explain_unusable(*late, environment="development") == (
        "Embedded MongoDB can't be used: no answer within 10 s. "
        "See its state and its log:  vibetuner services status"
    )


async def test_a_dead_embedded_server_is_not_advised_to_be_embedded():
    """A Redis and a MongoDB that `embedded` has started keep that name, whatever their port is."""
    embedded = Settings(redis_url="embedded", mongodb_url="embedded")
    urls = {"redis_url": "redis://127.0.0.1:1", "mongodb_url": "mongodb://127.0.0.1:1"}
    with using_settings(embedded):
        live = embedded.model_copy(update=urls)
        redis = str(await unavailable(live, OSError("Connection refused")))
        mongo = unreachable(live, OSError("Connection refused"))

    cure = "can't be used: Connection refused. See its state and its log:  vibetuner services stat"
    assert redis.startswith(f"Embedded Redis {cure}")
    assert mongo.startswith(f"Embedded MongoDB {cure}")


def test_a_redis_that_hangs_up_may_use_tls():
    """A server that resets a connection without TLS may be one that needs TLS."""
    reset = "The connection to Redis was lost: [Errno 104] Connection reset by peer"
    line = explain_unusable("Redis", "REDIS_URL", "redis://c", reason=reset, environment="test")

    assert line.endswith("if it speaks with TLS, begin REDIS_URL with rediss, not redis")


def test_only_development_is_told_about_embedded_servers():
    """Only development is told about embedded servers, which production refuses."""
    down = ("Redis", "REDIS_URL", "redis://cache", "no answer")

    assert "embedded" in explain_unusable(*down, environment="development")
    assert "embedded" not in explain_unusable(*down, environment="production")


def test_models_and_tasks_without_their_server_are_reported():
    """A project with models or tasks is reported if the URL of their server is empty."""

    class Berth(SQLModel):
        name: str

    project = VibetunerApp(tasks=[print], models=[UserModel], sql_models=[Berth])
    nowhere = Settings(
        environment="development", redis_url=None, mongodb_url=None, database_url=None
    )
    here = nowhere.model_copy(
        update={
            "redis_url": "redis://here",
            "mongodb_url": "mongodb://here",
            "database_url": "sqlite:///here.db",
        }
    )

    assert [one.name for one in find_unset(nowhere, project)] == [
        "Redis",
        "MongoDB",
        "SQL database",
    ]
    assert find_unset(here, project) == find_unset(nowhere, VibetunerApp()) == []


@pytest.mark.slow
def test_the_doctor_names_a_database_that_models_need(shop: Path, environment: dict[str, str]):
    """The doctor reports an empty MONGODB_URL as an error if tune.py lists documents."""
    environment |= {"MONGODB_URL": "", "REDIS_URL": "", "ENVIRONMENT": "development"}
    tune = shop / "src/shop/tune.py"
    models = "VibetunerApp(models=[UserModel], "
    tune.write_text(
        "from vibetuner.models import UserModel\n"
        + tune.read_text(encoding="utf-8").replace("VibetunerApp(", models, 1),
        encoding="utf-8",
    )

    done = run_vibetuner("doctor", "--json", folder=shop, **environment)
    found = [one for one in json.loads(done.stdout)["findings"] if one["area"] == "MongoDB"]

    assert done.returncode == 1
    assert [(one["level"], one["text"]) for one in found] == [("error", "MongoDB not configured")]
    assert found[0]["cure"] == "Add to .env:  MONGODB_URL=mongodb://localhost:27017"


@pytest.mark.slow
def test_an_unknown_task_is_named(shop: Path, environment: dict[str, str]):
    """`tasks list --task` reports an unknown task and suggests a similar name.

    For a known task that has not run yet, the list is empty.
    """
    missing = run_vibetuner("tasks", "list", "--task", "fails_twise", folder=shop, **environment)
    idle = run_vibetuner("tasks", "list", "--task", "add", "--json", folder=shop, **environment)

    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == (
        "error: The project has no task fails_twise. Did you mean fails_twice?\n"
    )
    assert (idle.returncode, json.loads(idle.stdout)) == (3, {"tasks": [], "next": None})


def test_the_error_for_a_taken_port_names_a_free_one():
    """The error for a taken port suggests a free one, which may not be the next number."""
    with ExitStack() as stack:
        first = stack.enter_context(listen("127.0.0.1", free_port()))
        port = first.getsockname()[1]
        with suppress(CommandError):  # another process has it, which is as good
            stack.enter_context(listen("127.0.0.1", port + 1))
        with pytest.raises(CommandError) as caught:
            listen("127.0.0.1", port, cure="Or:  run --port {port}")

    free = int(str(caught.value).rpartition(" ")[2])
    assert free > port + 1
    listen("127.0.0.1", free).close()


def test_an_address_of_another_machine_needs_another_host():
    """The error for an address of another machine suggests another host, not another port."""
    with pytest.raises(CommandError, match=r"can't be used: .*\. Name an address of this machine"):
        listen("203.0.113.1", 8000)


@pytest.mark.parametrize(
    ("slot", "name", "fixture"),
    [
        (redis_client, "Redis", "vibetuner_worker"),
        (mongo_database, "MongoDB", "vibetuner_db"),
        (sql_engine, "The SQL database", "vibetuner_sql"),
    ],
)
def test_a_client_that_nothing_has_opened_is_not_called_unconfigured(
    slot: Slot[object], name: str, fixture: str
):
    """With a URL, the cure is to open the client; without one, it is the line in `.env`."""
    urls = {"redis_url": "redis://cache", "mongodb_url": "mongodb://db"}
    urls["database_url"] = "sqlite+aiosqlite:///app.db"
    with using_settings(Settings(**urls)), pytest.raises(NotConfigured) as closed:
        slot.get()
    nothing = dict.fromkeys(urls)
    with using_settings(Settings(**nothing)), pytest.raises(NotConfigured) as missing:
        slot.get()
    test = Settings(**nothing, environment="test")
    with using_settings(test), pytest.raises(NotConfigured) as in_a_test:
        slot.get()

    assert str(closed.value) == (
        f"{name} is not open here. In a script:  async with base_lifespan(): "
        f"(from vibetuner.frontend.lifespan); in a test: the fixture {fixture}"
    )
    assert "Add to .env" in str(missing.value)
    assert str(in_a_test.value) == f"{missing.value} (in a test, request the fixture {fixture})"
