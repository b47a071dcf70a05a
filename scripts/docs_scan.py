"""Reads the sources for what they write to the log and send to browsers, without running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["RUNTIME", "TEMPLATE", "log_lines", "parse", "sent_events"]

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = ROOT / "runtime" / "src"
TEMPLATE = ROOT / "template"


def log_lines() -> Iterator[tuple[str, str, str]]:
    """Yield the level, the text and the logger of each log call of the runtime."""
    for path in sorted((RUNTIME / "vibetuner").rglob("*.py")):
        module = ".".join(path.relative_to(RUNTIME).with_suffix("").parts)
        for call in calls(path):
            match call:
                case (
                    ast.Call(
                        func=ast.Attribute(value=ast.Name(id="logger"), attr="log" as method),
                        args=[_, ast.Constant(value=line), *_],
                    )
                    | ast.Call(
                        func=ast.Attribute(value=ast.Name(id="logger"), attr=method),
                        args=[ast.Constant(value=line), *_],
                    )
                    | ast.Call(
                        func=ast.Attribute(value=ast.Attribute(attr="_quick"), attr=method),
                        args=[_, ast.Constant(value=line), *_],
                    )
                ):
                    yield level(method), f"`{line}`", f"`{module.removesuffix('.__init__')}`"


def level(method: str) -> str:
    """Return the level at which a logger's method writes."""
    return {"exception": "error", "log": "varies"}.get(method, method)


def sent_events() -> Iterator[tuple[str, str, str]]:
    """Yield the name, the channel and the sender of each event of the runtime and the template."""
    # Alembic's own template, script.py.mako, is no Python yet.
    rendered = (path for path in TEMPLATE.rglob("*.py*") if path.suffix != ".mako")
    sources = sorted([*RUNTIME.rglob("*.py"), *rendered])
    constants = {name: text for path in sources for name, text in text_constants(path)}
    for path in sources:
        module = path.relative_to(ROOT).as_posix()
        for call in calls(path):
            match call:
                case ast.Call(func=ast.Name(id="broadcast"), args=[ast.Attribute(), *_]):
                    continue  # its callers name the channel
                case ast.Call(func=ast.Name(id="broadcast"), args=[channel, event, *_]):
                    place = f"`{channel_of(channel, path)}`"
                case ast.Call(func=ast.Name(id="Event"), args=[event, *_]):
                    place = "the stream's own"
                case _:
                    continue
            if name := event_name(event, constants):
                yield f"`{name}`", place, sender(module)


def event_name(node: ast.expr, constants: dict[str, str]) -> str | None:
    """Return an event's name that the code spells out, itself or by a constant, or None."""
    match node:
        case ast.Constant(value=str(name)):
            return name
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return constants.get(name)
    return None


def text_constants(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the constants of a module that hold a text."""
    for node in parse(path).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                if name.isupper():
                    yield name, text


def channel_of(node: ast.expr, path: Path) -> str:
    """Return a channel's name as the code builds it."""
    if isinstance(node, ast.Name):
        for found in ast.walk(parse(path)):
            match found:
                case ast.Assign(targets=[ast.Name(id=node.id)], value=value):
                    return channel_of(value, path)
    if isinstance(node, ast.Constant):
        return str(node.value)
    return ast.unparse(node).removeprefix("f").strip("'\"")


def sender(module: str) -> str:
    """Return the source of an event, in words."""
    place = module.split("/", 1)[0]
    name = Path(module).name.removesuffix(".jinja")
    return f"a generated project, `{name}`" if place == "template" else f"the runtime, `{name}`"


def calls(path: Path) -> Iterator[ast.Call]:
    """Yield every call in a file, in order."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield node


def parse(path: Path) -> ast.Module:
    """Return a file's syntax tree, with a name in place of each expression of Jinja's."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jinja":
        text = re.sub(r"\{\{.*?\}\}", "project", text)
        # Of two alternatives, keep the first, which is that of the default answer.
        text = re.sub(r"(?s)\{%-? else.*?(?=\{%-? endif)|\{%.*?%\}", "", text)
    return ast.parse(text)
