"""A command group that imports less than typer's when no help is asked for."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Group(TyperGroup):
    """Its help option is False by default; typer would convert a None, by importing pydantic."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option that shows the help."""
        option = super().get_help_option(ctx)
        if option is not None and option.default is None:
            option.default = False
        return option
