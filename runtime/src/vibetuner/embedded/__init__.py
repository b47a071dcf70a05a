"""A local Valkey and a MongoDB-protocol server, for development and tests.

The first process that needs them starts a *keeper*, which runs the servers; others join. When the
last user has gone, the keeper stops the servers and ends. Each user holds a *lease*, a locked file:
the kernel releases the lock of a killed process, so no pid is ever trusted. If the keeper is
killed, its servers end too; the next process that joins starts a new keeper over the same data.
"""

from __future__ import annotations

from vibetuner.embedded.control import (
    ServicesStatus,
    ServiceStatus,
    down,
    embedded_services,
    open_services,
    running_services,
    services_root,
    status,
    up,
)
from vibetuner.embedded.folder import User
from vibetuner.embedded.leases import Lease, join

__all__ = [
    "Lease",
    "ServiceStatus",
    "ServicesStatus",
    "User",
    "down",
    "embedded_services",
    "join",
    "open_services",
    "running_services",
    "services_root",
    "status",
    "up",
]
