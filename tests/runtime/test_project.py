"""The folder and the name of the project."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.projects import write_project
from vibetuner.errors import ProjectError
from vibetuner.project import (
    ProjectInfo,
    data_dir,
    ensure_env_file,
    find_root,
    project_info,
    project_root,
    using_data_dir,
)


def test_a_project_is_found_from_any_folder_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The project is the nearest one above the current folder, as with git."""
    outer = write_project(tmp_path / "outer")
    inner = write_project(outer / "examples" / "inner", package="inner")

    for folder, root in (
        (outer / "src" / "shop", outer),
        (outer / "examples", outer),
        (inner / "src", inner),
    ):
        monkeypatch.chdir(folder)
        assert project_root() == root


def test_a_project_is_known_by_its_pyproject(stand_in):
    """A project's name and version come from pyproject.toml, its package from tune.py."""
    root = stand_in()

    assert project_info() == ProjectInfo(
        name="Corner Shop",
        slug="corner-shop",
        package="shop",
        version="1.2.3",
        description="Sells",
        root=root,
    )

    (root / "pyproject.toml").write_text("[project]\n")
    assert project_info() == ProjectInfo("shop", "shop", "shop", "0", "", root)


def test_outside_a_project_the_error_names_the_way_into_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Outside a project, and in one without tune.py, the error names the cure of each."""
    monkeypatch.chdir(tmp_path)
    assert find_root() is None
    with pytest.raises(ProjectError, match="in no vibetuner project.*copier copy"):
        project_root()

    (tmp_path / "old").mkdir()
    monkeypatch.chdir(tmp_path / "old")
    (tmp_path / "old").rmdir()
    assert find_root() is None
    with pytest.raises(ProjectError, match="was deleted"):
        project_root()

    write_project(tmp_path / "bare", tune=None)
    monkeypatch.chdir(tmp_path / "bare" / "src")
    with pytest.raises(
        ProjectError, match=r"No tune\.py in .*bare\. Create src/<package>/tune\.py"
    ):
        project_root()


def test_two_tunes_are_one_too_many(stand_in):
    """Two files tune.py are refused, and the error names both."""
    root = stand_in()
    (root / "src" / "market").mkdir()
    (root / "src" / "market" / "tune.py").touch()

    with pytest.raises(ProjectError, match=r"src/market/tune\.py and src/shop/tune\.py\. Keep one"):
        project_info()


@pytest.mark.parametrize("content", [b"[project\n", b"\xff\xfe"], ids=["no TOML", "no UTF-8"])
def test_a_pyproject_that_cannot_be_read_is_named(stand_in, content: bytes):
    """An unreadable pyproject.toml is named in one line, with the parser's reason."""
    (stand_in() / "pyproject.toml").write_bytes(content)

    with pytest.raises(ProjectError, match=r"pyproject\.toml can't be read: .+") as caught:
        project_info()
    assert "\n" not in str(caught.value)


def test_what_a_project_makes_is_kept_out_of_git(stand_in):
    """``.vibetuner/`` is made when it is first needed, with a .gitignore for all of it."""
    root = stand_in()

    assert data_dir() == root / ".vibetuner"
    assert (data_dir() / ".gitignore").read_text() == "*\n"

    (data_dir() / ".gitignore").write_text("")  # what a full disk leaves
    assert (data_dir() / ".gitignore").read_text() == "*\n"


def test_a_test_run_may_have_a_data_folder_of_its_own(stand_in, tmp_path: Path):
    """`using_data_dir` replaces the data folder inside its block."""
    root = stand_in()

    with using_data_dir(tmp_path / "other"):
        assert data_dir() == tmp_path / "other"
    assert not (root / ".vibetuner").exists()


def test_env_is_made_from_the_example_with_a_secret_of_its_own(stand_in):
    """`.env` is made from the example once, with a new secret, and only its owner can read it."""
    root = stand_in()
    example = "# what the app needs\nSECRET_KEY=\nREDIS_URL=embedded\n"
    (root / ".env.example").write_text(example)

    made = ensure_env_file()

    assert made == root / ".env"
    comment, key, redis = made.read_text().splitlines()
    assert (comment, redis) == ("# what the app needs", "REDIS_URL=embedded")
    assert len(key.removeprefix("SECRET_KEY=")) == 64
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    before = made.read_text()
    assert ensure_env_file() is None
    assert made.read_text() == before
    assert sorted(os.listdir(root)) == [".env", ".env.example", "pyproject.toml", "src"]


def test_one_of_several_concurrent_commands_makes_the_env_file(stand_in):
    """Of eight commands that start at once, one makes a complete `.env`."""
    root = stand_in()
    (root / ".env.example").write_text("SECRET_KEY=\n")
    barrier = Barrier(8)

    def start(_: int) -> Path | None:
        barrier.wait()
        return ensure_env_file()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(start, range(8)))

    assert [path for path in made if path] == [root / ".env"]
    assert len((root / ".env").read_text()) == len("SECRET_KEY=") + 64 + 1
    assert sorted(os.listdir(root)) == [".env", ".env.example", "pyproject.toml", "src"]


@pytest.mark.process
def test_a_full_disk_is_named_in_one_line(stand_in):
    """If `.env` can't be written, the error names the file and the reason, and leaves nothing."""
    root = stand_in()
    (root / ".env.example").write_text("SECRET_KEY=\n" + "#" * 100_000)
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from vibetuner.project import ensure_env_file; ensure_env_file()"
    )
    # -B: the limit would cut off files of bytecode, too.
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = f"{root / '.env'} can't be made from .env.example (File too large). Make room"
    assert line in done.stderr
    assert sorted(os.listdir(root)) == [".env.example", "pyproject.toml", "src"]


# The kernel refuses hard links as it does on FAT: a filter of system calls returns EPERM.
WITHOUT_LINKS = """
import ctypes, os, struct, sys, threading
from pathlib import Path
from vibetuner.project import create_once

one, other = {"x86_64": (86, 265), "aarch64": (37, 37)}[os.uname().machine]
steps = [(0x20, 0, 0, 0), (0x15, 2, 0, one), (0x15, 1, 0, other), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("HBBI", *step) for step in [*steps, (6, 0, 0, 0x00050001)])
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", len(steps) + 1, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
try:
    os.link(sys.executable, "link")
except PermissionError:
    pass
else:
    sys.exit("the filter has no effect")
made = []
start = threading.Barrier(8)
def create(text):
    start.wait()
    made.append(create_once(Path("key"), text) and text)
threads = [threading.Thread(target=create, args=(str(n) * 64,)) for n in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
print(*filter(None, made))
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="it needs a filter of system calls")
def test_a_file_system_needs_no_hard_links(tmp_path: Path):
    """One of eight threads creates the file, whole, also where there are no hard links."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINKS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout.strip() == (tmp_path / "key").read_text()
    assert len(done.stdout.strip()) == 64
    assert os.listdir(tmp_path) == ["key"]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


@pytest.mark.process
@pytest.mark.parametrize("limit", [0, 10])
def test_a_file_that_can_not_be_written_leaves_no_draft(tmp_path: Path, limit: int):
    """A full disk leaves neither a part of the file nor a draft."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from vibetuner.project import create_once\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try: create_once(Path('key'), 'a' * 64)\n"
        "except OSError: sys.exit(7)"
    )
    assert (
        subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, check=False).returncode
        == 7
    )
    assert list(tmp_path.iterdir()) == []


def test_two_secrets_are_never_the_same(stand_in):
    """Each `.env` has a secret of its own, so that two checkouts sign with two keys."""
    root = stand_in()
    (root / ".env.example").write_text("SECRET_KEY=\n")
    keys = set()
    for _ in range(2):
        keys.add((ensure_env_file() or root).read_text())
        (root / ".env").unlink()

    assert len(keys) == 2


def test_without_an_example_there_is_nothing_to_make(
    stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without an example, and outside a project, no `.env` is made."""
    stand_in()
    assert ensure_env_file() is None
    monkeypatch.chdir(tmp_path)
    assert ensure_env_file() is None
