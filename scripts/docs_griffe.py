"""Lets docstrings that are written for people read as Markdown: roles, examples, literal blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["PlainDocstrings"]

ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
LITERAL_BLOCK = re.compile(r"^::\n", re.MULTILINE)


class PlainDocstrings(griffe.Extension):
    """Turns a role such as ``:func:`get_settings` `` into code, fences examples, drops ``::``."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            text = EXAMPLE.sub(r"```pycon\n\g<0>\n```", text)
            obj.docstring.value = LITERAL_BLOCK.sub("", text)
