"""The MongoDB documents that every project has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

from beanie import Document, Indexed
from pydantic import AfterValidator, EmailStr, Field

__all__ = ["CORE_MODELS", "UserModel"]


class UserModel(Document):
    """A person, in the collection ``users``; the address is unique and stored in lower case."""

    email: Annotated[EmailStr, AfterValidator(str.lower), Indexed(unique=True)]
    name: str = ""
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    class Settings:
        name: ClassVar = "users"


CORE_MODELS: tuple[type[Document], ...] = (UserModel,)
