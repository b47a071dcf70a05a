"""Prepares a ``vibetuner run``, then runs it here or under a supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

from vibetuner.cli.checks.settings import check_settings
from vibetuner.cli.console import make_env_file
from vibetuner.cli.ports import listen
from vibetuner.config import EMBEDDED, Settings, get_settings
from vibetuner.embedded import open_services
from vibetuner.errors import CommandError, NotConfigured, SettingsError
from vibetuner.logs import configure_logging
from vibetuner.project import project_root
from vibetuner.redis import REDIS_MISSING

logger = logging.getLogger(__name__)

DEFAULT_HOST = "127.0.0.1"
WEB_PORT = 8000
MONITOR_PORT = 11111
# The children of a supervisor that was killed have its port until they have noticed and stopped.
PORT_SECONDS = 2.0


class Program(NamedTuple):
    """A process: its name, the arguments after ``python``, and a socket to inherit."""

    name: str
    arguments: tuple[str, ...]
    fd: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One call of ``vibetuner run``."""

    mode: Literal["dev", "prod"]
    part: Literal["frontend", "worker", "all"]
    host: str
    port: int | None
    workers: int
    queues: str | None = None
    allow_debug: bool = False

    def run(self) -> None:
        """Check, then run until everything has stopped.

        Raises VibetunerError if the settings, the project or the port are not fit to start.
        """
        project_root()
        self._set_environment()
        settings = get_settings()
        as_json = settings.environment == "production"
        configure_logging(debug=settings.debug, as_json=as_json, process="supervisor")
        self._check(settings)
        with self._listen() as listener:
            if self.mode == "prod" and self.part != "all" and self.workers == 1:
                from vibetuner.cli import child

                program = next(self._programs(listener))
                if listener is not None:
                    listener.detach()  # the child, which is this process, owns it now
                child.main(list(program.arguments[2:]))
                return
            sys.exit(asyncio.run(self._supervise(settings, listener)))

    def _set_environment(self) -> None:
        """Set ENVIRONMENT by the mode, whatever `.env` says."""
        if self.mode == "prod":
            os.environ["ENVIRONMENT"] = "production"
            return
        if os.environ.get("ENVIRONMENT") == "production":
            raise CommandError(
                "ENVIRONMENT=production is set here. Use `vibetuner run prod`, or unset it"
            )
        os.environ |= {"ENVIRONMENT": "development", "DEBUG": "true"}
        make_env_file()

    def _check(self, settings: Settings) -> None:
        if self.queues is not None:
            if self.part == "frontend":
                raise CommandError("--queues is for a worker, and frontend runs none. Leave it out")
            from vibetuner.tasks.queues import ReadOrder

            ReadOrder.parse(self.queues)
        if self.part != "frontend" and not settings.redis_url:
            raise NotConfigured(REDIS_MISSING)
        if settings.redis_url and settings.redis_url != EMBEDDED:
            from vibetuner.redis.url import parse_url

            parse_url(settings.redis_url, settings.redis_key_prefix)
        if self.mode == "prod":
            self._check_production(settings)

    def _check_production(self, settings: Settings) -> None:
        """Refuse settings that the doctor calls an error; ``--allow-debug`` accepts only DEBUG."""
        if self.allow_debug and settings.debug:
            logger.warning("DEBUG=true in production: every visitor sees source code and values")
            settings = settings.model_copy(update={"debug": False})
        for finding in check_settings(settings):
            if finding.level == "error":
                cure = f"{finding.cure[0].upper()}{finding.cure[1:]}"
                raise SettingsError(f"{finding.text}. {cure}")

    def _listen(self) -> closing[socket.socket] | nullcontext[None]:
        if self.part == "worker":
            return nullcontext()
        cure = (
            f"Stop what uses it, or:  vibetuner run {self.mode} {self.part}"
            f"{'' if self.host == DEFAULT_HOST else f' --host {self.host}'} --port {{port}}"
        )
        port = self.port or WEB_PORT
        return closing(listen(self.host, port, cure=cure, patience=PORT_SECONDS))

    async def _supervise(self, settings: Settings, listener: socket.socket | None) -> int:
        from vibetuner.cli.child import STOP_SECONDS
        from vibetuner.cli.supervisor import Supervisor

        if EMBEDDED in {settings.redis_url, settings.mongodb_url}:
            logger.info("starting the embedded services")
        root = project_root()
        async with open_services(settings):
            return await Supervisor(
                list(self._programs(listener, f"--supervisor={os.getpid()}")),
                watch=(root / "src", root / ".env") if self.mode == "dev" else (),
                # JSON lines contain the process's name, and must stay JSON.
                label=self.mode == "dev",
                patience=settings.worker_grace_period + STOP_SECONDS,
            ).run()

    def _programs(self, listener: socket.socket | None, *options: str) -> Iterator[Program]:
        if self.mode == "dev":
            options = ("--dev", *options)
        if listener:
            arguments = ["frontend", *options, "--fd", str(listener.fileno())]
            yield from self._copies("web", arguments, fd=listener.fileno())
        if self.part != "frontend":
            beside = ["--beside-web"] if listener else []  # which warns for both
            queues = [] if self.queues is None else ["--queues", self.queues]
            yield from self._copies(
                "worker", ["worker", *options, *beside, *queues], monitored=True
            )

    def _copies(
        self, name: str, arguments: list[str], *, fd: int | None = None, monitored: bool = False
    ) -> Iterator[Program]:
        # Beside the web app, the options name its address.
        host, port = DEFAULT_HOST, MONITOR_PORT
        if self.part == "worker":
            host, port = self.host, self.port or MONITOR_PORT
        for number in range(1, self.workers + 1):
            label = f"{name}-{number}" if self.workers > 1 else name
            command = ["-m", "vibetuner.cli.child", *arguments, "--name", label]
            if monitored and number == 1:
                command += ["--host", host, "--port", str(port)]
            yield Program(label, tuple(command), fd)
