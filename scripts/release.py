"""Makes a release: version, changelog, the tests that matter for it, commit and tag."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMBERED = ("pyproject.toml", "runtime/src/vibetuner/__init__.py")
TESTS = ("tests/runtime/test_exports.py", "tests/template/test_update.py")
UNRELEASED = "## [Unreleased]"


def main() -> None:
    """Check, write, test, commit and tag; restore the files if one of these fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="such as 0.2.0")
    parser.add_argument("--no-tests", action="store_true", help="when you have just run them")
    options = parser.parse_args()
    version = options.version.removeprefix("v")
    check(version)
    try:
        write(version)
        if not options.no_tests:
            # The version that is installed here must be the new one too.
            run("uv", "sync", "--quiet")
            run(sys.executable, "-m", "pytest", "-q", *TESTS)
        run("git", "commit", "--quiet", "--all", "--message", f"Release {version}")
    except BaseException:
        run("git", "checkout", "--quiet", "--", *NUMBERED, "CHANGELOG.md")
        raise
    run("git", "tag", "--annotate", f"v{version}", "--message", f"Version {version}")
    print(f"Version {version} is committed and tagged. Next:\n    git push origin HEAD v{version}")


def check(version: str) -> None:
    """Exit with the cure if the version can't be released."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        sys.exit(f"error: a version is X.Y.Z, perhaps with rc1 at its end, not {version!r}")
    if output("git", "status", "--porcelain"):
        sys.exit("error: something is not committed. Commit or stash it first")
    tags = output("git", "tag", "--list", "v*").split()
    if newer := [tag for tag in tags if key(tag) >= key(version)]:
        sys.exit(f"error: {newer[-1]} is there already; {version} is not newer. Choose another")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    news, dated = section(changelog, "Unreleased"), section(changelog, version)
    if dated and news:
        sys.exit(f"error: CHANGELOG.md has [{version}] already. Move what is new into it by hand")
    if not (dated or news):
        sys.exit("error: CHANGELOG.md says nothing under [Unreleased]. Write what users notice")


def write(version: str) -> None:
    """Set the version everywhere, and date the changelog's news."""
    for path in (ROOT / name for name in NUMBERED):
        text = path.read_text(encoding="utf-8")
        numbered = re.sub(
            r'(?m)^(version|__version__) = ".*"$', rf'\1 = "{version}"', text, count=1
        )
        path.write_text(numbered, encoding="utf-8")
    path = ROOT / "CHANGELOG.md"
    today = datetime.now(UTC).date().isoformat()
    path.write_text(dated(path.read_text(encoding="utf-8"), version, today), encoding="utf-8")


def dated(changelog: str, version: str, today: str) -> str:
    """Return the changelog with its news under a number and a date, and its links renewed.

    >>> text = "## [Unreleased]\\n\\n- New.\\n\\n[Unreleased]: https://x/compare/v0.1.0...HEAD\\n"
    >>> print(dated(text, "0.2.0", "2026-12-01"), end="")
    ## [Unreleased]
    <BLANKLINE>
    ## [0.2.0] - 2026-12-01
    <BLANKLINE>
    - New.
    <BLANKLINE>
    [Unreleased]: https://x/compare/v0.2.0...HEAD
    [0.2.0]: https://x/releases/tag/v0.2.0
    """
    if section(changelog, version):
        return changelog
    changelog = changelog.replace(UNRELEASED, f"{UNRELEASED}\n\n## [{version}] - {today}", 1)
    link = r"(?m)^\[Unreleased\]: (\S+)/compare/\S+\.\.\.HEAD$"
    links = rf"[Unreleased]: \1/compare/v{version}...HEAD\n[{version}]: \1/releases/tag/v{version}"
    return re.sub(link, links, changelog)


def section(changelog: str, name: str) -> str:
    """Return the text under a heading, or an empty text if there is none."""
    found = re.search(rf"(?ms)^## \[{re.escape(name)}\][^\n]*\n(.*?)(?=^## |^\[|\Z)", changelog)
    return found[1].strip() if found else ""


def key(version: str) -> tuple[int, ...]:
    """Return a key by which versions sort; a candidate comes before its release."""
    numbers = [int(number) for number in re.findall(r"\d+", version)]
    return (*numbers[:3], *(numbers[3:] or [10**6]))


def run(*command: str) -> None:
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise SystemExit(f"error: {' '.join(command[:3])} failed; nothing was released")


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
