"""The tables."""

from datetime import UTC, datetime
from enum import StrEnum
from secrets import token_hex

from sqlalchemy import Column, Enum
from sqlmodel import Field, SQLModel
from vibetuner.resources.schema import UtcDateTime
from vibetuner.tasks.progress import ProgressState, ProgressStatus


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


class Order(SQLModel, table=True):
    """What a customer has bought."""

    __tablename__ = "orders"

    id: int | None = Field(default=None, primary_key=True)
    number: str = Field(unique=True)
    customer: str
    product: str
    quantity: int
    unit_price_cents: int
    ordered_at: datetime = Field(sa_type=UtcDateTime)


class Person(SQLModel, table=True):
    """Somebody who has signed up; the address is kept in lower case."""

    __tablename__ = "people"

    id: str = Field(default_factory=lambda: token_hex(12), primary_key=True)
    email: str = Field(unique=True)
    name: str = ""
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class ExportStatus(StrEnum):
    """Where an export stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Export(SQLModel, table=True):
    """One request for a CSV file of all orders, and how far it has come."""

    __tablename__ = "exports"

    id: str = Field(default_factory=lambda: token_hex(6), primary_key=True)  # not to be guessed
    task_id: str | None = Field(default=None, index=True)
    # While it is under way it holds one of a few slots; the database lets nobody share one.
    slot: int | None = Field(default=None, unique=True)
    # As text: PostgreSQL's own enumerations need a migration for every new value.
    status: ExportStatus = Field(
        default=ExportStatus.QUEUED,
        sa_column=Column(Enum(ExportStatus, native_enum=False, length=20), nullable=False),
    )
    done: int = 0
    total: int = 0
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime, index=True)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

    @property
    def is_active(self) -> bool:
        """Whether there is something to wait for."""
        return self.status in {ExportStatus.QUEUED, ExportStatus.RUNNING}

    @property
    def progress(self) -> ProgressState:
        """How far it has come, for a page that is drawn anew; live pages hear it from the task."""
        running = self.status is ExportStatus.RUNNING
        return ProgressState(
            task_id=self.task_id or "",
            status=ProgressStatus.RUNNING if running else ProgressStatus.QUEUED,
            done=self.done,
            total=self.total or None,
        )


class Quota(SQLModel, table=True):
    """How often one visitor has done something in a period."""

    __tablename__ = "quotas"

    key: str = Field(primary_key=True)
    used: int = 1
    ends_at: datetime = Field(sa_type=UtcDateTime, index=True)
