"""Copier's messages on the command line when it can't go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import clean_environment


def test_a_bad_short_name_is_refused_and_nothing_is_written(plain: Path, tmp_path: Path):
    """A bad short name is refused; the last line shows a good one, and nothing is written."""
    project = tmp_path / "my-project"
    process = copier(plain, project, "--data", "project_slug=Bad Slug")

    assert process.returncode != 0
    assert process.stderr.splitlines()[-1] == (
        "ValueError: Validation error for question 'project_slug': "
        "Use lower-case letters, digits and single dashes, beginning with a letter: my-project."
    )
    assert not project.exists()


def test_a_folder_with_another_project_is_not_overwritten(plain: Path, tmp_path: Path):
    """Without a terminal, Copier keeps another project's files, and names --overwrite.

    On a terminal, it asks about each file.
    """
    project = tmp_path / "my-project"
    project.mkdir()
    (project / "pyproject.toml").write_text("mine\n")
    process = copier(plain, project)

    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        "Interactive session required: Consider using `--overwrite`"
    )
    assert "Traceback" not in process.stderr
    assert (project / "pyproject.toml").read_text() == "mine\n"


def test_what_is_the_users_is_kept_even_with_overwrite(plain: Path, tmp_path: Path):
    """`--overwrite` keeps the user's files:

    README.md, justfile, src/ and tests/ are written once.
    """
    project = tmp_path / "my-project"
    project.mkdir()
    (project / "README.md").write_text("mine\n")
    process = copier(plain, project, "--overwrite")

    assert process.returncode == 0
    assert (project / "README.md").read_text() == "mine\n"
    assert (project / "pyproject.toml").is_file()


def copier(template: Path, project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "copier", "copy", "--defaults", *options, template, project],
        env=clean_environment(NO_COLOR="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
