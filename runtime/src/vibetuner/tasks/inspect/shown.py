"""Shows arguments and results as shortened text; values that look secret are masked."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from vibetuner.errors import mask_secrets
from vibetuner.tasks.letters.plain import plain, plain_text

MASK = "•••"
LONGEST = 2000
SECRET_WORDS = frozenset(
    ("password", "passwd", "pwd", "passphrase", "secret", "secrets", "token", "tokens", "apikey")
).union(("authorization", "auth", "bearer", "cookie", "cookies", "credential", "credentials"))
SECRET_WORDS |= {"pin", "cvv", "cvc", "iban", "ssn", "otp", "jwt", "session", "sessionid"}
SECRET_KEYS = frozenset({"api", "access", "private", "secret", "signing", "encryption"})


def looks_secret(name: str) -> bool:
    """Return whether a value's name suggests that nobody should read it.

    >>> [looks_secret(n) for n in ("api_key", "userPassword", "key", "tokenizer", "X-Auth")]
    [True, True, False, False, True]
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]
    if SECRET_WORDS.intersection(words):
        return True
    return any(a in SECRET_KEYS and b == "key" for a, b in pairwise(words))


def shown(value: Any, longest: int = LONGEST) -> str:
    """Return a value as text for people.

    >>> shown({"user": "ann", "password": "x", "db": "redis://ann:x@cache"})
    '{"user": "ann", "password": "•••", "db": "redis://***@cache"}'
    """
    masked = _masked(plain(value))
    text = masked if isinstance(masked, str) else json.dumps(masked, ensure_ascii=False)
    return plain_text(text, longest)


def name_arguments(
    function: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Return arguments as texts, by the names that the function gives them, else by position.

    >>> def greet(name: str, token: str, *more: int) -> None: ...
    >>> name_arguments(greet, ["ann", "x", 1, 2], {})
    {'name': 'ann', 'token': '•••', 'more 1': '1', 'more 2': '2'}
    """
    names = _names(function, len(args))
    named = {**dict(zip(names, args, strict=True)), **kwargs}
    return {
        plain_text(name): MASK if looks_secret(str(name)) else shown(value)
        for name, value in named.items()
    }


def _names(function: Callable[..., Any] | None, count: int) -> list[str]:
    names: list[str] = []
    try:
        parameters = list(inspect.signature(function).parameters.values()) if function else []
    except (TypeError, ValueError):
        parameters = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name} {n}" for n in range(1, count - len(names) + 1)]
        elif parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}:
            names.append(parameter.name)
    names += [f"argument {place}" for place in range(len(names) + 1, count + 1)]
    return names[:count]


def _masked(value: Any) -> Any:
    match value:
        case dict():
            return {
                name: MASK if looks_secret(name) and inner not in (None, "") else _masked(inner)
                for name, inner in value.items()
            }
        case list():
            return [_masked(item) for item in value]
        case str():
            return mask_secrets(value)
        case _:
            return value
