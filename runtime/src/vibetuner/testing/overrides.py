"""Settings that a test can change by value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pydantic import ValidationError

from vibetuner.config import Expected, Settings, get_settings, using_settings
from vibetuner.errors import SettingsError, suggest


class SettingsOverride:
    """The current settings, and a way to change some: ``vibetuner_settings(debug=True)``.

    Reading ``vibetuner_settings.debug`` is reading ``get_settings().debug``.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, **values: Any) -> Settings:
        """Use these values until the test's end; return the settings.

        Raises:
            SettingsError: there is no such setting, or it does not take this value.
        """
        current = get_settings()
        for name in values.keys() - Settings.model_fields.keys():
            raise SettingsError(_unknown(name))
        try:
            changed = type(current)(**{**dict(current), **values})
        except ValidationError as error:
            raise SettingsError(_explain(error, values)) from None
        return self._stack.enter_context(using_settings(changed))

    def __getattr__(self, name: str) -> Any:
        return getattr(get_settings(), name)


@contextmanager
def overriding() -> Iterator[SettingsOverride]:
    """Restore overridden settings at the end of the block."""
    with ExitStack() as stack:
        yield SettingsOverride(stack)


def _unknown(name: str) -> str:
    hint = suggest(name, Settings.model_fields, "See vibetuner.config.Settings", "{}=")
    return f"There is no setting named {name}. {hint}"


def _explain(error: ValidationError, values: dict[str, Any]) -> str:
    names = {str(place).lower() for detail in error.errors() for place in detail["loc"][:1]}
    for name in sorted(names & values.keys()):
        metadata = Settings.model_fields[name].metadata
        expected = next(item.text for item in metadata if isinstance(item, Expected))
        return f"{name}= takes {expected}"
    return f"{', '.join(sorted(values))}= can't be set together with environment=production"
