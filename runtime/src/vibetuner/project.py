"""The project's folder, and its name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vibetuner.errors import ProjectError
from vibetuner.state import Slot

# The errors of os.link() on FAT, exFAT and some network shares.
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class ProjectInfo:
    """The project's metadata in ``pyproject.toml``."""

    name: str
    slug: str
    package: str
    version: str
    description: str
    root: Path

    @property
    def migrations(self) -> Path:
        """The folder of the SQL migrations, which need not exist."""
        return self.root / "src" / self.package / "migrations"


def find_root() -> Path | None:
    """Return the nearest folder, going up, that has a ``pyproject.toml`` and a ``tune.py``."""
    here = _here()
    for folder in (here, *here.parents) if here else ():
        if (folder / "pyproject.toml").is_file() and find_tunes(folder):
            return folder
    return None


def _here() -> Path | None:
    """Return the current folder; None if it was deleted, as a release by a later deploy."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def find_tunes(root: Path) -> list[Path]:
    """Return every ``src/<package>/tune.py`` of a folder, sorted."""
    return sorted(root.glob("src/*/tune.py"))


def project_root() -> Path:
    """Return the root of the project that the current folder is in.

    Raises:
        ProjectError: the current folder is not in a project.
    """
    root = find_root()
    if root is None:
        raise ProjectError(_why_no_root(_here()))
    return root


def key_prefix(given: str | None, redis_url: str | None) -> str:
    """Return REDIS_KEY_PREFIX with its colon; the project's slug if it is empty.

    For a Cluster, the slug becomes a hash tag, which keeps all keys of the project on one node.
    """
    if given:
        return f"{given.rstrip(':')}:"
    slug = project_info().slug if find_root() else "vibetuner"
    is_cluster = (redis_url or "").startswith(("redis+cluster:", "rediss+cluster:"))
    return f"{{{slug}}}:" if is_cluster else f"{slug}:"


def _why_no_root(here: Path | None) -> str:
    if here is None:
        return "The folder that this process is in was deleted. Go to a project"
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "src").is_dir():
            return (
                f"No tune.py in {folder}. Create src/<package>/tune.py with: "
                "from vibetuner import VibetunerApp; app = VibetunerApp()"
            )
    return (
        f"{here} is in no vibetuner project. Go to one, or make one: "
        "copier copy gh:org/vibetuner-template myproject"
    )


def project_info() -> ProjectInfo:
    """Return the project's name and slug.

    Raises:
        ProjectError: there is no project here, two packages have a ``tune.py``, or
            ``pyproject.toml`` can't be read.
    """
    root = project_root()
    tunes = find_tunes(root)
    if len(tunes) > 1:
        names = " and ".join(str(tune.relative_to(root)) for tune in tunes)
        raise ProjectError(f"{root} has more than one tune.py: {names}. Keep one")
    project = _read_pyproject(root / "pyproject.toml")
    slug = str(project.get("name", tunes[0].parent.name))
    return ProjectInfo(
        name=str(project.get("title", slug)),
        slug=slug,
        package=tunes[0].parent.name,
        version=str(project.get("version", "0")),
        description=str(project.get("description", "")),
        root=root,
    )


def _read_pyproject(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProjectError(f"{path} can't be read: {error}") from None
    project = document.get("project", {})
    title = document.get("tool", {}).get("vibetuner", {}).get("title")
    return {**project, "title": title} if title else project


def worker_command(environment: str) -> str:
    """Return the command that starts a worker; production refuses the embedded services.

    >>> worker_command("production"), worker_command("development")
    ('vibetuner run prod worker', 'vibetuner run dev worker')
    """
    return f"vibetuner run {'prod' if environment == 'production' else 'dev'} worker"


@cache
def code_digest(project: ProjectInfo) -> str:
    """Return a digest of the Python files of the project's package, wherever it is installed.

    The first digest is kept: it is that of the code that this process has imported.
    """
    package = project.root / "src" / project.package
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        with suppress(OSError):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:12]


_data_dir = Slot[Path](lambda: LookupError("no override"))


def using_data_dir(folder: Path) -> AbstractContextManager[Path]:
    """Make :func:`data_dir` return ``folder`` for the length of the block."""
    return _data_dir.hold(folder)


def data_dir() -> Path:
    """Return the folder for files made at run time: ``.vibetuner/``, kept out of git."""
    folder = _data_dir.peek() or (find_root() or Path.cwd()) / ".vibetuner"
    ignore = folder / ".gitignore"
    if not (ignore.is_file() and ignore.stat().st_size):  # a full disk makes an empty file
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore.write_text("*\n", encoding="utf-8")
    return folder


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in this block for the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def ensure_env_file() -> Path | None:
    """Create `.env` from `.env.example`, with a new SECRET_KEY, unless it exists.

    Returns the new file's path, or None if it existed.

    Raises:
        ProjectError: the folder is read-only, or its disk is full.
    """
    root = find_root()
    if root is None or (root / ".env").exists() or not (root / ".env.example").is_file():
        return None
    example = (root / ".env.example").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^SECRET_KEY=$", f"SECRET_KEY={secrets.token_urlsafe(48)}", example)
    try:
        return root / ".env" if create_once(root / ".env", text) else None
    except OSError as error:
        raise ProjectError(
            f"{root / '.env'} can't be made from .env.example ({error.strerror}). "
            "Make room, or make its folder one that you may write to"
        ) from None


def create_once(path: Path, text: str) -> bool:
    """Create a file that only its owner may read; return False if it exists.

    The file is complete from its first moment. Of several processes, one creates it; they take
    turns where the file system has no hard links.
    """
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")
        try:
            os.link(draft, path)  # refuses to replace a file
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with _turn(path.parent):
                if path.exists():
                    return False
                draft.rename(path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            draft.unlink()
    return True
