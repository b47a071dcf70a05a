"""What the keeper says of itself, in one small file that is always whole."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from vibetuner.embedded.folder import SERVICES, Folder, Service, url_of

__all__ = ["Record", "ServiceRecord", "State", "read_record", "write_record"]

State = Literal["stopped", "starting", "running", "failed"]


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """How one server fares; ``since`` (seconds of the epoch) is when it came to this state."""

    state: State = "stopped"
    port: int | None = None
    pid: int | None = None
    since: float | None = None
    error: str = ""

    def stopped(self) -> ServiceRecord:
        """What remains of it when it is down: its port, for the next start."""
        return ServiceRecord(port=self.port)


@dataclass(frozen=True, slots=True)
class Record:
    """The keeper's pid and its servers; only true while the keeper's lock is held."""

    keeper: int | None = None
    services: dict[Service, ServiceRecord] = field(
        default_factory=lambda: {service: ServiceRecord() for service in SERVICES}
    )

    def stopped(self) -> Record:
        """The same with nobody at work."""
        services = {service: one.stopped() for service, one in self.services.items()}
        return replace(self, keeper=None, services=services)

    def url(self, service: Service) -> str | None:
        """The service's URL while it runs."""
        one = self.services[service]
        return url_of(service, one.port) if one.state == "running" and one.port else None


def read_record(folder: Folder) -> Record:
    """The last record; an empty one when there is none or it makes no sense."""
    try:
        content = json.loads(folder.record.read_text(encoding="utf-8"))
        services = {name: ServiceRecord(**content["services"][name]) for name in SERVICES}
        return Record(content["keeper"], services)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Record()


def write_record(folder: Folder, record: Record) -> None:
    """Replace the record in one step."""
    draft = folder.record.with_suffix(".new")
    draft.write_text(json.dumps(asdict(record)), encoding="utf-8")
    draft.replace(folder.record)
