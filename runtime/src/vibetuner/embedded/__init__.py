"""A local Valkey and a Mongo-protocol server, for development and tests.

Who comes first starts a *keeper*, a process that runs the servers; others join; when the last one
is gone, the keeper stops them and ends. Each user holds a *lease*, a locked file: the kernel drops
the lock of a killed process, so no pid is ever trusted. A keeper that is killed takes its servers
with it; the next one to join starts a new one over the same data.
"""

from __future__ import annotations

from vibetuner.embedded.control import ServicesStatus, ServiceStatus, down, status, up
from vibetuner.embedded.leases import Lease, join
from vibetuner.embedded.opening import (
    embedded_services,
    open_services,
    running_services,
    services_root,
)
from vibetuner.embedded.users import User

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
