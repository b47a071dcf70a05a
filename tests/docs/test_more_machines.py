"""The YAML on the pages about deploying can be parsed and is consistent."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pymongo.uri_parser import parse_uri
from sqlalchemy import make_url

from tests.docs.blocks import ROOT
from tests.template.test_deployment import check_schema
from vibetuner.config import Settings

FOLDER = ROOT / "docs/how-to"
TEXTS = {
    name: (FOLDER / name).read_text(encoding="utf-8")
    for name in ("deploy.md", "more-machines.md", "scaling.md")
}
PAGE = TEXTS["more-machines.md"]
OBJECTS = {
    "ConfigMap": "v1",
    "Service": "v1",
    "Job": "batch/v1",
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "MongoDBCommunity": "mongodbcommunity.mongodb.com/v1",
    "Cluster": "postgresql.cnpg.io/v1",
}


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each document, with the name of its file."""
    for text in TEXTS.values():
        for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
            if block.startswith("# "):
                for found in yaml.load_all(block, yaml.CSafeLoader):
                    yield block.split("\n", 1)[0].removeprefix("# "), found


KUBERNETES = [one for _, one in documents() if "kind" in one]
COMPOSE = {name: one for name, one in documents() if "services" in one}


def test_each_file_of_the_pages_is_read_here():
    """Each YAML document on the pages has a known file name, kind and API version."""
    names = dict.fromkeys(name for name, _ in documents())
    assert sorted(names) == sorted(
        [*COMPOSE, "shop.yaml", "redis.yaml", "valkey.yaml", "databases.yaml"]
    )
    assert sorted(COMPOSE) == ["compose.cluster.yml", "compose.mongo.yml", "compose.redis.yml"]
    assert {(one["kind"], one["apiVersion"]) for one in KUBERNETES} == set(OBJECTS.items())
    for one in KUBERNETES:
        if one["kind"] == "ConfigMap" and "ENVIRONMENT" in one["data"]:
            assert {name.lower() for name in one["data"]} <= {*Settings.model_fields, "secrets_dir"}


@pytest.mark.parametrize("name", ["compose.cluster.yml", "compose.mongo.yml"])
def test_the_compose_files_are_valid(tmp_path: Path, name: str):
    """Each Compose file fits the schema, and uses only secrets and volumes that exist."""
    (tmp_path / name).write_text(yaml.safe_dump(COMPOSE[name]))
    assert check_schema("vendor.compose-spec", tmp_path / name).startswith("ok")
    made = set(re.findall(r"> (secrets/\w+)", PAGE))
    given = COMPOSE[name]["secrets"]
    assert {one["file"] for one in given.values()} <= made
    for service in COMPOSE[name]["services"].values():
        assert set(service["secrets"]) <= set(given)
        assert {volume.split(":")[0] for volume in service["volumes"]} <= set(
            COMPOSE[name]["volumes"]
        )


def pods() -> Iterator[tuple[str, dict[str, Any], set[str]]]:
    """Yield each pod on the pages, with its name and its volumes."""
    for one in KUBERNETES:
        spec = one.get("spec", {})
        if "template" in spec:
            pod = spec["template"]["spec"]
            claims = [claim["metadata"] for claim in spec.get("volumeClaimTemplates", ())]
            volumes = {volume["name"] for volume in [*pod["volumes"], *claims]}
            yield f"{one['kind']} {one['metadata']['name']}", pod, volumes


@pytest.mark.parametrize(("name", "pod", "volumes"), list(pods()))
def test_a_pod_has_the_volumes_it_mounts_and_hides_no_token(
    name: str, pod: dict[str, Any], volumes: set[str]
):
    """Each pod runs as non-root, defines the volumes that it mounts, and covers nothing in /run.

    The service account's token is below /run.
    """
    assert pod["securityContext"]["runAsNonRoot"] is True, name
    for container in pod["containers"]:
        places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(places) <= volumes
        assert not [one for one in places.values() if one.startswith(("/run", "/var/run"))]


def test_selectors_match_their_pods():
    """Each selector matches a pod's labels; Kubernetes would not report a mismatch."""
    labels = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in KUBERNETES
        if one["kind"] in {"Deployment", "StatefulSet"}
    ]
    for one in KUBERNETES:
        selector = one.get("spec", {}).get("selector")
        if selector:
            wanted = selector.get("matchLabels", selector).items()
            assert any(wanted <= found.items() for found in labels), one["metadata"]["name"]


def test_the_scripts_of_the_pods_are_shell_and_read_what_the_secret_has():
    """`sh -n` accepts each script, and the scripts read only keys of the secret."""
    scripts = [
        text
        for one in KUBERNETES
        for name, text in one.get("data", {}).items()
        if name.endswith(".sh")
    ]
    scripts += [
        container["args"][0]
        for _, pod, _ in pods()
        for container in pod["containers"]
        if container.get("command", [""])[0] == "sh" and "args" in container
    ]
    assert len(scripts) == 4
    keys = set(re.findall(r"--from-literal=(\w+)=", PAGE))
    for script in scripts:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
        assert set(re.findall(r"/etc/redis/(\w+)", script)) <= keys


def test_the_databases_urls_can_be_read():
    """The drivers of MongoDB and PostgreSQL parse the URLs on the page."""
    found = re.findall(r"^((?:mongodb|postgresql)\S+)$", PAGE, re.MULTILINE)
    assert len(found) == 3
    for url in found:
        if url.startswith("mongodb"):
            read = parse_uri(url)
            assert len(read["nodelist"]) == 3
            assert read["options"]["replicaSet"]
        else:
            assert make_url(url).password
