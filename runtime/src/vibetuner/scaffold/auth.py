"""Sign-in: code, pages, tables and a test, written as the project's own files."""

from __future__ import annotations

import re
from importlib.util import find_spec

from vibetuner.config import Settings
from vibetuner.errors import CommandError, NotConfigured
from vibetuner.scaffold.draft import Draft, Place, Renderer, read_module
from vibetuner.scaffold.edits import Entry
from vibetuner.scaffold.migration import draft_migration
from vibetuner.scaffold.registered import find_models, find_tasks
from vibetuner.scaffold.route import has_base

# The templates, and the files below src/<package>/ that they make.
FILES = {
    "auth_routes.py": "frontend/routes/auth.py",
    "auth.py": "auth.py",
    "auth_models.py": "models/account.py",
    "auth_task.py": "tasks/sign_in_mail.py",
    "auth_sign_in.html": "templates/auth/sign_in.html",
    "auth_sent.html": "templates/auth/sent.html",
    "auth_confirm.html": "templates/auth/confirm.html",
    "auth_account.html": "templates/auth/account.html",
    "auth_mail.html": "templates/mail/sign_in.html",
}
TEST = "tests/test_auth.py"
LIMITS = "limits.py"
TOKENS = "auth_tokens"
# The names that the routes need in limits.py; the example's file has them.
LIMITS_NAMES = ("class Limit", "def client_of", "def mailbox_of", "def use")


def draft_auth(place: Place) -> Draft:
    """Draft all files of sign-in.

    A project without the example's limits.py gets that file, too.
    """
    render = Renderer(place).render
    package, limits = place.package, f"{place.source}/{LIMITS}"
    files = {f"{place.source}/{path}": render(template) for template, path in FILES.items()}
    entries = [
        Entry("routes", f"{package}.frontend.routes.auth", "router", ("auth_router",)),
        Entry("tasks", f"{package}.tasks.sign_in_mail", *_imported_as("send_sign_in_link")),
        Entry("models", f"{package}.models.account", *_imported_as("Account")),
        Entry("sql_models", f"{package}.models.account", *_imported_as("AuthToken")),
    ]
    brings_limits = _brings_limits(place)
    if brings_limits:
        files[limits] = render("auth_limits.py")
        entries.append(Entry("sql_models", f"{package}.limits", *_imported_as("Quota")))
    files[TEST] = render("test_auth.py")
    files |= draft_migration(place, TOKENS, "auth_migration.py", quotas=brings_limits)
    return Draft(
        files=files,
        entries=tuple(entries),
        next_steps=(
            "uv run vibetuner db upgrade",
            f"uv run pytest {TEST}",
            "uv run just local-all-with-worker    # http://127.0.0.1:8000/sign-in",
            "uv run just check",
        ),
        after_removal=(
            "git status",
            "uv run vibetuner db revision 'Remove signing in'",
            "uv run just check",
        ),
    )


def draft_of_auth(place: Place) -> Draft:
    """Draft sign-in as it was generated; raise CommandError if the project has none."""
    read_module(place, f"{place.source}/{FILES['auth_routes.py']}", "sign-in")
    return draft_auth(place)


def check_auth(place: Place) -> None:
    """Raise CommandError if something that the code needs is missing, or a name of it is taken."""
    if find_spec("argon2") is None:
        raise CommandError(
            "Passwords are hashed by argon2-cffi, which is not installed. Run:  uv add argon2-cffi"
        )
    if not has_base(place):
        raise CommandError(
            f"The pages need {place.source}/templates/base.html with a block content. Add it, as a "
            "new project has it"
        )
    source = place.root / place.source
    ours = {source / path for path in (*FILES.values(), LIMITS)}
    for class_name, table, (path, line) in find_models(source):
        if path not in ours and (class_name in {"Account", "AuthToken"} or table == TOKENS):
            where = f"{path.relative_to(place.root)}:{line}"
            raise CommandError(f"{where} has the model {class_name} already. Rename it first")
    task = find_tasks(source).get("send_sign_in_link")
    if task is not None and task[0] not in ours:
        where = f"{task[0].relative_to(place.root)}:{task[1]}"
        raise CommandError(f"{where} has the task send_sign_in_link already. Rename it first")


def check_databases(place: Place, settings: Settings) -> None:
    """Raise NotConfigured if accounts or sessions would have no database.

    A project without ``.env`` was never started; its first start writes one that names both.
    """
    if not (place.root / ".env").is_file():
        return
    if not settings.mongodb_url:
        raise NotConfigured(
            "Sign-in keeps people in MongoDB, and MONGODB_URL is empty. Add to .env:  "
            "MONGODB_URL=embedded"
        )
    if not settings.database_url:
        raise NotConfigured(
            "Sign-in keeps sessions in the SQL database, and DATABASE_URL is empty. Add to .env:  "
            "DATABASE_URL=sqlite+aiosqlite:///.vibetuner/app.db"
        )


def _brings_limits(place: Place) -> bool:
    """Return whether limits.py is missing, or is the one that this generator wrote."""
    path = place.root / place.source / LIMITS
    if not path.is_file():
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    missing = [name for name in LIMITS_NAMES if not re.search(rf"(?m)^(async )?{name}\b", text)]
    if missing:
        raise CommandError(
            f"{place.source}/{LIMITS} has no {missing[0].split()[1]}, which signing in needs. "
            "Rename the file; the command then writes a new one"
        )
    return "class Quota" in text


def _imported_as(name: str) -> tuple[str, tuple[str]]:
    return name, (name,)
