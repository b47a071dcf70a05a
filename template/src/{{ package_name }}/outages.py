"""Errors that mean that an outside system is missing or does not answer."""

from coredis.exceptions import RedisError
from pymongo.errors import ConnectionFailure
from sqlalchemy.exc import OperationalError
from vibetuner.errors import VibetunerError

OUTAGES = (VibetunerError, RedisError, ConnectionFailure, OperationalError)


def explain(error: Exception) -> str:
    """Return one line for people, with the cure."""
    match error:
        case RedisError():
            return "The queue does not answer. Start Redis, or correct REDIS_URL in .env."
        case ConnectionFailure():
            return "MongoDB does not answer. Start it, or correct MONGODB_URL in .env."
        case OperationalError() if "no such" in str(error):  # SQLite: no such table, or column
            return "The SQL tables differ from the models. Run:  uv run vibetuner db upgrade"
        case OperationalError():
            return "The SQL database refuses. Start it, or correct DATABASE_URL in .env."
    return str(error)
