"""The import of coredis without beartype."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
from decimal import Decimal
{before}
from vibetuner.cli.loading import import_coredis

import_coredis()
print("coredis" in sys.modules, "beartype" in sys.modules)
from coredis.typing import Serializable, TypeAdapter

adapter = TypeAdapter()
adapter.register_serializer(list[Decimal], lambda numbers: " + ".join(map(str, numbers)))
print(adapter.serialize(Serializable([Decimal("1.5"), Decimal(2)])))
import beartype
print(beartype.__file__ is not None, beartype.BeartypeConf.__module__.split(".")[0])
"""


def lines_of(before: str = "") -> list[str]:
    """Run the program in a process of its own, and return what it prints."""
    program = PROGRAM.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.splitlines()


def test_coredis_imports_beartype_when_it_needs_it():
    """coredis imports beartype when it needs it, and others then find the real module."""
    assert lines_of() == ["True False", "1.5 + 2", "True beartype"]


def test_coredis_is_imported_as_usual_where_its_checks_are_on():
    """coredis imports beartype at once if its runtime checks are on."""
    switched_on = "os.environ['COREDIS_RUNTIME_CHECKS'] = 'true'; import coredis"

    assert lines_of(switched_on) == ["True True", "1.5 + 2", "True beartype"]
