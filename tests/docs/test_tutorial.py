"""The tutorial, followed from its first command to its last in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docs.blocks import Block, differs, read_blocks, settled
from tests.docs.test_blocks import TUTORIAL
from tests.environments import Mold
from tests.processes import clean_environment, free_port, wait_until
from tests.template import conftest as template
from tests.template.conftest import GIT_CONFIG, Repository, write_template

mold, plain = template.mold, template.plain

# The values of a page that differ in the next run: ids, and free ports.
OWN = re.compile(r"\b[0-9a-f]{16,}\b|(?<=127\.0\.0\.1:)\d{4,5}\b")
# The example's own tests, which tests/template/test_check.py runs in a new project.
PROVEN_ELSEWHERE = " ".join(
    f"--ignore=tests/test_{name}.py" for name in ("exports", "export_pages", "signup", "webhooks")
)
STARTS_WEB = ("just local-all-with-worker", "run prod frontend")


@dataclass
class Terminal:
    """A command that goes on running, and what it has printed."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """Return the output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Reader:
    """A person who follows the tutorial, on a machine with another port in place of 8000."""

    folder: Path
    environment: dict[str, str]
    mold: Mold
    port: int = field(default_factory=free_port)
    terminals: list[Terminal] = field(default_factory=list)
    mine: dict[str, str] = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        """Save a file, or run a command and compare its output."""
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
            return
        if block.note == "after Ctrl-C":
            self.press_ctrl_c()
        if block.note.startswith("terminal"):
            self.leave_running(block)
        else:
            self.type(block)

    def type(self, block: Block) -> None:
        """Run a block to its end, in the folder and with the variables of the ones before."""
        ended = self.run(self.with_my_values(block.text))
        if ended.returncode and block.note == "once it has restarted":
            ended = self.try_again(block)
        assert ended.returncode == 0, self.report(block, ended)
        if block.output is not None:
            came = ended.stdout.replace(f":{self.port}", ":8000")
            difference = differs(block.output, came)
            assert difference is None, f"{block.place}\n{difference}\n{self.logs}"
            self.mine |= dict(zip(own(block.output), own(came), strict=False))

    def try_again(self, block: Block) -> subprocess.CompletedProcess[str]:
        """Run a block until it succeeds, as somebody does who sees a restart."""
        runs: list[subprocess.CompletedProcess[str]] = []

        def succeeds() -> bool:
            runs.append(self.run(self.with_my_values(block.text)))
            return runs[-1].returncode == 0

        wait_until(succeeds, seconds=90, pause=0.5, what=lambda: self.report(block, runs[-1]))
        return runs[-1]

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        """Run a block of shell; its folder and exported variables hold for the next block."""
        after = self.folder / ".after"
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'{text}\n(pwd; env -0) > "{after}"'],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if ended.returncode == 0:
            place, _, variables = after.read_text("utf-8").partition("\n")
            after.unlink()
            self.folder = Path(place)
            exported = dict(item.split("=", 1) for item in variables.split("\0") if "=" in item)
            self.environment |= {k: v for k, v in exported.items() if k.endswith("_URL")}
        return ended

    def leave_running(self, block: Block) -> None:
        """Start a command, and wait for each line that the page shows."""
        if not (self.folder / ".venv").exists():
            # Lend all packages but the runtime, which the command installs from the release.
            self.mold.lend(self.folder)
        text = self.with_my_values(block.text).strip()
        if text.endswith(STARTS_WEB):
            text += f" --port {self.port}"
        log = self.folder.parent / f"terminal-{len(self.terminals)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        terminal = Terminal(process, log)
        self.terminals.append(terminal)
        for line in (block.output or "").splitlines():
            wait_until(
                lambda line=line: self.shows(terminal, line) or process.poll() is not None,
                seconds=300,
                what=lambda line=line: f"{block.place}: {line!r} in\n{terminal.text}",
            )
            assert self.shows(terminal, line), f"{block.place}: {line!r} not in\n{terminal.text}"

    def shows(self, terminal: Terminal, line: str) -> bool:
        """Return whether a terminal has printed a line of the page."""
        return settled(line) in settled(terminal.text.replace(f":{self.port}", ":8000"))

    def press_ctrl_c(self) -> None:
        """End the running commands by a signal to the whole group, as a terminal does."""
        for terminal in self.terminals:
            if terminal.process.poll() is None:
                os.killpg(terminal.process.pid, signal.SIGINT)
        for terminal in self.terminals:
            code = terminal.process.wait(60)
            assert code in {0, 130, -signal.SIGINT}, terminal.text
        self.terminals.clear()

    def with_my_values(self, text: str) -> str:
        """Return a command as this reader types it: with the ids and ports that they were shown."""
        text = OWN.sub(lambda found: self.mine.get(found[0], found[0]), text)
        return text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")

    def report(self, block: Block, ended: subprocess.CompletedProcess[str]) -> str:
        """Return the text to read when a command has failed."""
        return f"{block.place}: exit code {ended.returncode}\n{ended.stdout}\n{self.logs}"

    @property
    def logs(self) -> str:
        """Return the end of what the terminals show."""
        return "\n".join(terminal.text[-4000:] for terminal in self.terminals)


def own(text: str) -> list[str]:
    """Return the ids and ports of a text, in order."""
    return [value for value in OWN.findall(text) if value not in {"8000", "11111"}]


@pytest.fixture
def reader(tmp_path: Path, mold: Mold) -> Iterator[Reader]:
    """Yield a reader with an empty folder, for whom this checkout is the release at GitHub."""
    github, config = tmp_path / "github", tmp_path / "gitconfig"
    write_template(github)
    environment = clean_environment(GIT_CONFIG_GLOBAL=str(config), GIT_CONFIG_SYSTEM=os.devnull)
    environment |= {"UV_NO_GITHUB_FAST_PATH": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    environment["PYTEST_ADDOPTS"] = PROVEN_ELSEWHERE
    config.write_text(GIT_CONFIG, encoding="utf-8")
    release = Repository(github, environment)
    release.git("init", "--quiet")
    release.commit("Release", tag="v0.9.0")
    address = "https://github.com/org/vibetuner-template.git"
    with config.open("a", encoding="utf-8") as file:
        file.write(f'[url "{github.as_uri()}"]\ninsteadOf = {address}\n')
    with settled_down(Reader(tmp_path / "home", environment, mold)) as reader:
        reader.folder.mkdir()
        yield reader


@contextmanager
def settled_down(reader: Reader) -> Iterator[Reader]:
    """End the processes that a failed run has left."""
    try:
        yield reader
    finally:
        for terminal in reader.terminals:
            if terminal.process.poll() is None:
                os.killpg(terminal.process.pid, signal.SIGTERM)
        for terminal in reader.terminals:
            terminal.process.wait(60)
        if (reader.folder / ".venv").is_dir():
            reader.run("uv run vibetuner services down --force")


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(reader: Reader):
    """Each file of the tutorial is saved and each command run; its output is that of the page."""
    followed = [block for block in read_blocks(TUTORIAL) if not block.why_not_run]

    for block in followed:
        reader.follow(block)

    assert len(followed) > 20
    assert reader.terminals == []
