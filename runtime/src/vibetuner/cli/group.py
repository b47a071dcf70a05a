"""Commands below one name, without what typer would load to say that nobody has asked for help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["Group"]


class Group(TyperGroup):
    """Its help option is False where it isn't typed; a None would be converted, by pydantic."""

    def get_help_option(self, ctx: Any) -> Any:
        """The option that shows the help."""
        option = super().get_help_option(ctx)
        if option is not None and option.default is None:
            option.default = False
        return option
