"""Settings: typed values from the environment and `.env`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from tests.projects import write_project
from vibetuner.config import Settings, _load_settings, get_settings, mask_url, using_settings
from vibetuner.errors import SettingsError
from vibetuner.resources.sql import open_sql


def test_without_variables_every_setting_has_a_default(stand_in):
    """Without variables, no outside system is configured, and keys begin with the slug."""
    stand_in()

    settings = get_settings()

    assert (settings.redis_url, settings.mongodb_url, settings.database_url) == (None, None, None)
    assert (settings.environment, settings.debug) == ("development", False)
    assert settings.worker_concurrency == 16
    assert settings.redis_key_prefix == "corner-shop:"
    assert settings.queue_name == "corner-shop"


def test_a_variable_wins_over_the_env_file(stand_in, monkeypatch: pytest.MonkeyPatch):
    """A variable takes precedence over `.env` unless it is empty, and unknown names are ignored."""
    stand_in(env="WORKER_CONCURRENCY=4\nDEBUG=true\nREDIS_URL=redis://file\nPATH_TO=x\n")
    monkeypatch.setenv("WORKER_CONCURRENCY", "8")
    monkeypatch.setenv("REDIS_URL", "")

    settings = get_settings()

    assert settings.worker_concurrency == 8
    assert settings.redis_url == "redis://file"
    assert settings.debug is True


def test_white_space_around_a_value_does_not_count(stand_in, monkeypatch: pytest.MonkeyPatch):
    """White space around a value doesn't count, as a line break at the end of a secret.

    A file of SQLite had a carriage return in its name.
    """
    stand_in(env='SECRET_KEY=" in a file "\n')
    for name, value in {
        "REDIS_URL": "redis://cache:6379\n",
        "DATABASE_URL": "sqlite:////tmp/a.db\r",
        "DEBUG": " true",
        "ENVIRONMENT": "production\r\n",
        "MAIL_FROM": " ",
    }.items():
        monkeypatch.setenv(name, value)

    settings = get_settings()

    assert settings.redis_url == "redis://cache:6379"
    assert settings.database_url == "sqlite+aiosqlite:////tmp/a.db"
    assert (settings.debug, settings.environment) == (True, "production")
    assert settings.mail_from is None
    assert settings.secret_key
    assert settings.secret_key.get_secret_value() == "in a file"


def test_the_env_file_is_the_projects_wherever_one_stands(
    stand_in, monkeypatch: pytest.MonkeyPatch
):
    """The settings come from the `.env` in the project's root, and are read once."""
    root = stand_in(env="WORKER_CONCURRENCY=4\n")
    (root / "src" / ".env").write_text("WORKER_CONCURRENCY=99\n")
    monkeypatch.chdir(root / "src")

    settings = get_settings()
    (root / ".env").write_text("WORKER_CONCURRENCY=5\n")

    assert settings.worker_concurrency == 4
    assert get_settings() is settings


def test_settings_can_be_replaced_for_a_block():
    """`using_settings` replaces the settings inside its block, even if the block raises."""
    outer, inner = Settings(worker_concurrency=2), Settings(worker_concurrency=3)
    with using_settings(outer):
        with pytest.raises(KeyError), using_settings(inner):
            assert get_settings() is inner
            raise KeyError
        assert get_settings() is outer


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sqlite:////tmp/a.db", "sqlite+aiosqlite:////tmp/a.db"),
        ("sqlite+aiosqlite://", "sqlite+aiosqlite://"),
        ("sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"),
        ("postgres://u:p@h/shop", "postgresql+asyncpg://u:p@h/shop"),
        ("postgresql://u:p@h/shop", "postgresql+asyncpg://u:p@h/shop"),
        ("postgresql+asyncpg://h/shop", "postgresql+asyncpg://h/shop"),
        ("postgres://h/shop?a=b&sslmode=require", "postgresql+asyncpg://h/shop?a=b&ssl=require"),
    ],
)
def test_a_database_url_gets_the_asynchronous_driver(fresh, given: str, kept: str):
    """DATABASE_URL gets the asynchronous driver, as hosting companies give plain URLs."""
    assert Settings(database_url=given).database_url == kept


def test_a_relative_database_file_lies_below_the_project(stand_in, monkeypatch):
    """A relative SQLite file lies below the project's root, whatever the current folder is."""
    root = stand_in()
    monkeypatch.chdir(root / "src")

    settings = Settings(database_url="sqlite+aiosqlite:///.vibetuner/app.db?cache=shared")

    assert settings.database_url == f"sqlite+aiosqlite:///{root}/.vibetuner/app.db?cache=shared"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sqlite:///app.db", "sqlite+aiosqlite:///{}/a%25b%3Fc #d/app.db"),
        (
            "sqlite:///file:app.db?mode=ro&uri=true",
            "sqlite+aiosqlite:///file:{}/a%2525b%253Fc%2520%2523d/app.db?mode=ro&uri=true",
        ),
        ("sqlite:///file:app.db", "sqlite+aiosqlite:///{}/a%25b%3Fc #d/file:app.db"),
        ("sqlite:///file:/app.db?uri=true", "sqlite+aiosqlite:///file:/app.db?uri=true"),
        ("sqlite:///file::memory:?uri=true", "sqlite+aiosqlite:///file::memory:?uri=true"),
    ],
)
def test_a_database_file_lies_below_a_project_with_any_name(
    tmp_path: Path, monkeypatch, given: str, kept: str
):
    """The URL of a relative file is encoded; a URI of SQLite twice, as SQLite decodes it again."""
    monkeypatch.chdir(write_project(tmp_path / "a%b?c #d"))

    assert Settings(database_url=given).database_url == kept.format(tmp_path)


@pytest.mark.parametrize("given", ["sqlite:///app.db", "sqlite:///file:app.db?mode=rwc&uri=true"])
async def test_a_database_is_created_in_the_project(tmp_path: Path, monkeypatch, given: str):
    """The file is in the project, whatever characters of URLs its path has."""
    root = write_project(tmp_path / "a%b?c #d%20")
    monkeypatch.chdir(root)
    async with open_sql(Settings(database_url=given)):
        pass

    assert (root / "app.db").is_file()
    assert os.listdir(tmp_path) == [root.name]


async def test_the_folder_of_a_database_is_private(tmp_path: Path):
    """A folder that is made for a database, which may hold people's data, is its owner's alone."""
    file = tmp_path / ".vibetuner/app.db"
    async with open_sql(Settings(database_url=f"sqlite:///{file}")):
        assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("given", ["orders", "orders:", "orders::"])
def test_a_key_prefix_ends_with_one_colon(fresh, given: str):
    """A key prefix gets exactly one colon at its end."""
    assert Settings(redis_key_prefix=given).redis_key_prefix == "orders:"


def test_the_prefix_is_a_hash_tag_in_a_cluster(fresh):
    """The default prefix is a hash tag in a Cluster, and a given prefix stays as it is."""
    url = "rediss+cluster://h"
    assert Settings(redis_url=url).redis_key_prefix == "{vibetuner}:"
    assert Settings(redis_url=url, redis_key_prefix="a{b}").redis_key_prefix == "a{b}:"
    assert Settings(redis_url="redis://h").redis_key_prefix == "vibetuner:"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MONGODB_URL", "mongo://db", "mongodb://host:27017, mongodb+srv://host or embedded"),
        ("DATABASE_URL", "mysql://db/x", "sqlite+aiosqlite:///file.db or postgresql+asyncpg://"),
        ("WORKER_CONCURRENCY", "many", "a whole number, 1 to 10000"),
        ("WORKER_CONCURRENCY", "0", "a whole number, 1 to 10000"),
        ("WORKER_GRACE_PERIOD", "inf", "seconds, 0 to 86400"),
        ("DEBUG", "perhaps", "true or false"),
        ("ENVIRONMENT", "staging", "development, test or production"),
        ("REDIS_KEY_PREFIX", "a b", "letters, digits, '-', '_' and '.', with ':' at the end"),
        ("REDIS_KEY_PREFIX", ":", "letters, digits, '-', '_' and '.', with ':' at the end"),
        ("ALLOWED_HOSTS", "shop.example, a b", "host names with commas between"),
        ("FORWARDED_ALLOW_IPS", "*,nowhere", "addresses and networks with commas between, or *"),
        ("MAIL_FROM", "nobody", "an address such as team@example.com"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(
    stand_in, monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
):
    """The error of a wrong value names the variable, the expectation, the value and its source."""
    stand_in()
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as from_environment:
        get_settings()
    monkeypatch.delenv(name)
    Path(".env").write_text(f"{name}='{value}'\n")
    with pytest.raises(SettingsError) as from_file:
        get_settings()

    assert str(from_environment.value).startswith(f"{name}: expected {expected}")
    assert str(from_environment.value).endswith(f"found {value!r} in the environment")
    assert str(from_file.value).endswith(f"found {value!r} in .env")


def test_the_error_names_the_line_that_sets_the_wrong_value(stand_in, monkeypatch):
    """An empty variable sets nothing: the error names `.env`, and the last of two lines there.

    A variable may be in lower case, too.
    """
    stand_in(env="DEBUG=maybe\nDEBUG=perhaps\n")
    monkeypatch.setenv("DEBUG", "")

    with pytest.raises(SettingsError, match="found 'perhaps' in .env$"):
        get_settings()

    monkeypatch.setenv("debug", "possibly")
    with pytest.raises(SettingsError, match="found 'possibly' in the environment$"):
        get_settings()


def test_all_wrong_values_are_named_at_once(stand_in):
    """One error names all wrong values."""
    stand_in(env="DEBUG=perhaps\nWORKER_CONCURRENCY=many\n")

    with pytest.raises(SettingsError, match=r"^DEBUG: .* in .env; WORKER_CONCURRENCY: .* in .env$"):
        get_settings()


def test_a_secret_is_not_shown_when_it_is_wrong(stand_in):
    """The error of a wrong secret doesn't show its value."""
    stand_in(env="SMTP_URL=http://ann:hunter2@mail\n")

    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert "found a value that is not shown in .env" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_do_not_show_in_a_repr(fresh):
    """The repr of the settings shows no secret, as settings end up in tracebacks and logs."""
    settings = Settings(
        secret_key="hunter2", debug_access_token="hunter2", smtp_url="smtp://u:hunter2@h"
    )

    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("name", ["REDIS_URL", "MONGODB_URL"])
def test_production_refuses_embedded_services(stand_in, name: str):
    """Production refuses embedded services, made for one machine, and shows an example."""
    stand_in(env=f"ENVIRONMENT=production\n{name}=embedded\n")

    with pytest.raises(
        SettingsError, match=f"{name}=embedded is for development.*example:  {name}="
    ):
        get_settings()


def test_an_env_file_that_cannot_be_read_is_named(stand_in):
    """An unreadable `.env` is named with the line and the cure, without the line's text."""
    root = stand_in()
    env = root / ".env"

    env.mkdir()
    with pytest.raises(SettingsError, match=r"\.env can't be read \(Is a directory\)\. Make it"):
        get_settings()
    env.rmdir()

    env.write_bytes("MAIL_FROM=Böhm".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"\.env can't be read \(not UTF-8\)\. Make it"):
        get_settings()

    env.write_text("# fine\nDEBUG=true\nMAIL FROM=hunter2\n")
    with pytest.raises(SettingsError, match=r"\.env:3: not a NAME=value line") as caught:
        get_settings()
    assert "hunter2" not in str(caught.value)


WORDS = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=1)


@given(user=WORDS, password=WORDS)
def test_a_masked_url_never_shows_a_password(user: str, password: str):
    """A masked URL shows no password, even if the URL is not encoded or has no scheme."""
    for url in (
        f"redis://{user}:{password}@cache:6379/0",
        f"redis:/{user}:{password}@cache:6379/0",
        f"{user}:{password}@cache:6379/0",
    ):
        assert re.fullmatch(r"([\w+.-]*://)?\*\*\*@cache:6379/0", mask_url(url))


def test_a_secret_may_lie_in_a_file(stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A secret may come from a file in SECRETS_DIR; `.env` and a variable take precedence."""
    stand_in(env="MAIL_FROM=env@example.com\nSECRET_KEY=\n")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "secret_key").write_text("from a file\n")
    (secrets / "MAIL_FROM").write_text("file@example.com")
    (secrets / "redis_url").write_bytes(b"\xef\xbb\xbfredis://file\r\n")  # as Windows writes it
    (secrets / "smtp_url").write_text("smtp://file")
    monkeypatch.setenv("SECRETS_DIR", str(secrets))
    monkeypatch.setenv("SMTP_URL", "smtp://variable")
    settings = get_settings()

    assert settings.secret_key
    assert settings.secret_key.get_secret_value() == "from a file"
    assert settings.mail_from == "env@example.com"
    assert settings.redis_url == "redis://file"
    assert settings.smtp_url
    assert settings.smtp_url.get_secret_value() == "smtp://variable"


def test_a_folder_of_secrets_that_does_not_exist_is_named(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A SECRETS_DIR that is no folder is an error, as the secrets in it would be missing."""
    stand_in()
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path / "secrtes"))
    with pytest.raises(
        SettingsError, match=r"/secrtes, the folder of secrets, can't be read \(No su"
    ):
        get_settings()


def test_an_empty_variable_does_not_override_a_file(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A variable that is empty doesn't override a secret's file.

    compose.prod.yml empties the variables that a .env of development would set.
    """
    stand_in()
    (tmp_path / "secret_key").write_text("from a file")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("SECRET_KEY", "")

    assert "from a file" in repr(get_settings().secret_key.get_secret_value())


def test_an_empty_secret_file_counts_as_none(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An empty secret file counts as none, like an empty variable."""
    stand_in()
    for name in ("secret_key", "debug_access_token", "database_url", "debug"):
        (tmp_path / name).write_text("\n")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))

    settings = get_settings()

    assert (settings.secret_key, settings.debug_access_token) == (None, None)
    assert (settings.database_url, settings.debug) == (None, False)


def test_a_secret_that_lies_outside_of_its_folder_is_refused(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A secret's file that links to another folder is refused.

    A link inside the folder, as Kubernetes makes it, is followed.
    """
    stand_in()
    folder, elsewhere = tmp_path / "secrets", tmp_path / "elsewhere"
    (folder / "..data").mkdir(parents=True)
    (folder / "..data" / "mail_from").write_text("inside@example.com")
    (folder / "mail_from").symlink_to(folder / "..data" / "mail_from")
    monkeypatch.setenv("SECRETS_DIR", str(folder))
    assert get_settings().mail_from == "inside@example.com"

    elsewhere.write_text("outside@example.com")
    (folder / "mail_from").unlink()
    (folder / "mail_from").symlink_to(elsewhere)
    _load_settings.cache_clear()
    with pytest.raises(SettingsError, match=r"mail_from is a link to .*elsewhere, outside"):
        get_settings()


def test_a_line_of_env_may_refer_to_a_variable(stand_in, monkeypatch: pytest.MonkeyPatch):
    """A line of `.env` may refer to a variable, as in a shell."""
    monkeypatch.setenv("CACHE_HOST", "cache.internal")
    stand_in(env="REDIS_URL=redis://${CACHE_HOST}:6379\n")

    assert get_settings().redis_url == "redis://cache.internal:6379"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"mysql://ann:pw@host", "DATABASE_URL: expected sqlite"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_a_wrong_secret_file_is_named_without_what_it_holds(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
):
    """A wrong secret file is named by its path, without its content."""
    stand_in()
    (tmp_path / "database_url").write_bytes(content)
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    with pytest.raises(SettingsError) as refused:
        get_settings()

    assert message in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "ann" not in str(refused.value)


def test_every_number_has_a_range():
    """Each numeric setting has an upper limit, so that a wrong value is refused at the start."""
    numbers = {
        name: [type(one).__name__ for one in field.metadata]
        for name, field in Settings.model_fields.items()
        if {"int", "float"} & set(re.findall(r"\w+", str(field.annotation)))
        or field.annotation is ByteSize
    }
    assert len(numbers) > 12
    without = [name for name, limits in numbers.items() if "Le" not in limits]
    assert without == []


def test_a_long_value_is_shown_in_part(stand_in, monkeypatch: pytest.MonkeyPatch):
    """The error of a long value shows its first 80 characters."""
    stand_in()
    monkeypatch.setenv("MAX_BODY", "9" * 5000)
    with pytest.raises(SettingsError, match=r"^MAX_BODY: expected .*, found '9{80}'\.\.\. in"):
        get_settings()
