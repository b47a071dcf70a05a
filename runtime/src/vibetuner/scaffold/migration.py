"""The folder of migrations, and the migration that creates a generated model's table."""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Sequence
from typing import Any

from vibetuner.errors import CommandError
from vibetuner.scaffold.draft import Draft, Place, Renderer
from vibetuner.scaffold.registered import assigned


def has_migrations(place: Place) -> bool:
    """Return whether the project has an Alembic environment."""
    return (place.migrations / "env.py").is_file()


def draft_environment(place: Place) -> Draft:
    """Draft the files that Alembic loads: env.py, and the template of a revision."""
    folder, render = f"{place.source}/migrations", Renderer(place).render
    files = {f"{folder}/{name}": render(name) for name in ("env.py", "script.py.mako")}
    # Git keeps no empty folder, and Alembic needs this one.
    return Draft(files={**files, f"{folder}/versions/.gitkeep": ""})


def draft_migration(
    place: Place, table: str, template: str = "migration.py", **values: Any
) -> dict[str, str]:
    """Draft the migration that creates a table; draft nothing if one does so already.

    The template gets ``values``, the table's name and the revisions.

    Raises CommandError if there are several newest revisions, or one is missing.
    """
    versions = sorted((place.migrations / "versions").glob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in versions]
    created = re.compile(rf"op\.create_table\(\s*['\"]{table}['\"]")
    if not has_migrations(place) or any(created.search(text) for text in texts):
        return {}
    ids, parents = _revisions(texts)
    if missing := sorted(parents - ids):
        raise CommandError(
            f"No migration has the revision {missing[0]}, which another follows. Look for its file "
            "in version control:  git log --stat"
        )
    heads = ids - parents
    if len(heads) > 1:
        raise CommandError(
            f"There are {len(heads)} newest revisions: {', '.join(sorted(heads))}. Join them:  "
            "uv run alembic merge heads -m 'merge'"
        )
    revision = secrets.token_hex(6)
    text = Renderer(place).render(
        template, table=table, revision=revision, parent=next(iter(heads), None), **values
    )
    return {f"{place.source}/migrations/versions/{revision}_create_{table}.py": text}


def _revisions(texts: Sequence[str]) -> tuple[set[str], set[str]]:
    """Return the ids of all revisions, and the ids that another revision follows."""
    ids: set[str] = set()
    parents: set[str] = set()
    for text in texts:
        for name, value in assigned(ast.parse(text).body):
            if name in {"revision", "down_revision"}:
                found = ast.literal_eval(value) or ()
                kind = ids if name == "revision" else parents
                kind.update([found] if isinstance(found, str) else found)
    return ids, parents
