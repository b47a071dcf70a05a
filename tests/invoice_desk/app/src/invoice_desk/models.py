"""The tables, and the paths of the files that belong to their rows."""

from datetime import UTC, date, datetime
from pathlib import Path
from secrets import token_hex
from typing import Annotated

from pydantic import StringConstraints
from sqlmodel import Field, SQLModel
from vibetuner.config import data_dir
from vibetuner.resources.schema import UtcDateTime

# The number is also the name of a file.
Number = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,40}$")]


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a random id that cannot be guessed."""
    return token_hex(16)


def batch_folder(batch_id: str) -> Path:
    """Return the folder of a batch's documents; the archive lies beside it."""
    return data_dir() / "batches" / batch_id


def document_path(batch_id: str, number: str) -> Path:
    """Return the path of one document."""
    return batch_folder(batch_id) / f"{number}.html"


class Invoice(SQLModel, table=True):
    """An amount that a customer owes."""

    __tablename__ = "invoices"

    number: Number = Field(primary_key=True)
    customer: str
    email: str
    cents: int = Field(gt=0)
    due: date = Field(index=True)
    paid_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    reminded_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Upload(SQLModel, table=True):
    """A file of invoices, and how many of its rows are imported."""

    __tablename__ = "uploads"

    id: str = Field(default_factory=new_id, primary_key=True)
    task_id: str = ""
    rows: int = 0

    @property
    def path(self) -> Path:
        """Return the path of the uploaded file."""
        return data_dir() / "uploads" / f"{self.id}.csv"
