"""``vibetuner services``: shows, starts and stops the embedded services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vibetuner.embedded import ServicesStatus, ServiceStatus

app = typer.Typer(
    help="Show, start and stop the servers behind REDIS_URL=embedded and MONGODB_URL=embedded.",
    no_args_is_help=True,
)

NOT_RUNNING = 3
COLOURS = {"running": "green", "starting": "yellow", "failed": "red", "orphaned": "red"}


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show which services run, where, and who uses them.

    Exit code 0 if they run, 3 if they are stopped or one has failed.
    """
    from dataclasses import asdict

    from vibetuner import embedded
    from vibetuner.cli.console import print_json
    from vibetuner.config import project_root

    seen = embedded.status(project_root())
    if as_json:
        print_json({"running": seen.running, **asdict(seen)})
    else:
        _print_lines(seen)
    if not seen.running:
        raise typer.Exit(NOT_RUNNING)


@app.command()
def up() -> None:
    """Start the services that the settings call embedded; they run until `down`."""
    from vibetuner import embedded
    from vibetuner.cli.console import prepare_env_file
    from vibetuner.config import get_settings, project_root
    from vibetuner.errors import CommandError

    project_root()
    prepare_env_file()
    services = embedded.embedded_services(get_settings())
    if not services:
        raise CommandError(
            "Nothing to start: no setting says embedded. "
            "Add to .env:  REDIS_URL=embedded  or  MONGODB_URL=embedded"
        )
    _print_lines(embedded.up(embedded.services_root(), services))
    print("Next:  vibetuner run dev   (to stop them:  vibetuner services down)")


@app.command()
def down(
    force: Annotated[
        bool, typer.Option("--force", help="Stop them even if they are used.")
    ] = False,
) -> None:
    """Stop the services; refuse while other processes use them."""
    from vibetuner import embedded
    from vibetuner.config import project_root

    embedded.down(project_root(), force=force)
    print("Embedded services are stopped.")


def _print_lines(seen: ServicesStatus) -> None:
    from vibetuner.cli.console import Console

    console = Console()
    for service in seen.services:
        console.print(f"{service.name:<8}", end=" ")
        console.print(f"{service.state:<9}", style=COLOURS.get(service.state, "dim"), end=" ")
        console.print(_describe(service))
    users = [f"{user.command} (pid {user.pid}): {', '.join(user.services)}" for user in seen.users]
    for text in dict.fromkeys(users):  # a process may hold several leases
        console.print(f"used by  {text}")
    if seen.pinned:
        console.print("kept up until:  vibetuner services down")


def _describe(service: ServiceStatus) -> str:
    from datetime import UTC, datetime, timedelta

    facts = []
    if service.state == "failed":
        facts.append(f"{service.error}. See {service.log}")
    if service.url:
        facts.append(service.url)
    if service.pid:
        facts.append(f"pid {service.pid}")
    if service.state == "running" and service.since:
        # Less than none if the clock was set back.
        seconds = max(0, round((datetime.now(UTC) - service.since).total_seconds()))
        facts.append(f"up {timedelta(seconds=seconds)}")
    size = service.data_bytes
    data = f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1_000_000:.1f} MB"
    return "  ".join((*facts, f"data {data}"))
