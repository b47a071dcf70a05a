"""Errors that mean that an outside system is missing or does not answer."""

from coredis.exceptions import RedisError
from pymongo.errors import ConnectionFailure
from sqlalchemy.exc import OperationalError, ProgrammingError
from vibetuner.errors import VibetunerError

OUTAGES = (VibetunerError, RedisError, ConnectionFailure, OperationalError, ProgrammingError)


def explain(error: Exception) -> str:
    """Return one line for people, with the cure."""
    match error:
        case RedisError():
            return "The queue does not answer. Start Redis, or correct REDIS_URL in .env."
        case ConnectionFailure():
            return "MongoDB does not answer. Start it, or correct MONGODB_URL in .env."
        case OperationalError() | ProgrammingError() if is_missing(error):
            return "The SQL tables differ from the models. See:  uv run vibetuner doctor"
        case OperationalError() | ProgrammingError():
            return "The SQL database refuses. Start it, or correct DATABASE_URL in .env."
    return str(error)


def is_missing(error: Exception) -> bool:
    """Return whether a table or a column does not exist, by the words of SQLite and PostgreSQL."""
    return "no such" in str(error) or "does not exist" in str(error)
