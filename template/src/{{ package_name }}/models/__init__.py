"""The tables."""

from datetime import UTC, datetime
from enum import StrEnum
from secrets import token_hex

from sqlalchemy import Column, Enum
from sqlmodel import Field, SQLModel
from vibetuner.resources.schema import UtcDateTime
from vibetuner.tasks.progress import ProgressState, ProgressStatus


def now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)


class Order(SQLModel, table=True):
    """An order of a customer."""

    __tablename__ = "orders"

    id: int | None = Field(default=None, primary_key=True)
    number: str = Field(unique=True)
    customer: str
    product: str
    quantity: int
    unit_price_cents: int
    ordered_at: datetime = Field(sa_type=UtcDateTime)


class Person(SQLModel, table=True):
    """A person who has signed up; the address is stored in lower case."""

    __tablename__ = "people"

    id: str = Field(default_factory=lambda: token_hex(12), primary_key=True)
    email: str = Field(unique=True)
    name: str = ""
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class ExportStatus(StrEnum):
    """The state of an export."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Export(SQLModel, table=True):
    """A request for a CSV file of all orders, and its progress."""

    __tablename__ = "exports"

    id: str = Field(default_factory=lambda: token_hex(6), primary_key=True)  # hard to guess
    task_id: str | None = Field(default=None, index=True)
    # An active export holds one of a few slots; the database lets no two share one.
    slot: int | None = Field(default=None, unique=True)
    # Stored as text: PostgreSQL's own enumerations need a migration for every new value.
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
        """Return whether the export has not ended."""
        return self.status in {ExportStatus.QUEUED, ExportStatus.RUNNING}

    @property
    def progress(self) -> ProgressState:
        """Return the progress to show when a page is loaded; open pages get it from the task."""
        running = self.status is ExportStatus.RUNNING
        return ProgressState(
            task_id=self.task_id or "",
            status=ProgressStatus.RUNNING if running else ProgressStatus.QUEUED,
            done=self.done,
            total=self.total or None,
        )


class Quota(SQLModel, table=True):
    """The number of times that one visitor did something in a period."""

    __tablename__ = "quotas"

    key: str = Field(primary_key=True)
    used: int = 1
    ends_at: datetime = Field(sa_type=UtcDateTime, index=True)
