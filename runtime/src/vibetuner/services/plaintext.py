"""The text part of a message, derived from its HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

PARAGRAPHS = frozenset(
    (
        *("article", "aside", "blockquote", "figure", "footer", "form", "header", "hr", "main"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "nav", "p", "pre", "section", "table"),
    )
)
LINES = frozenset(
    (
        *("address", "caption", "center", "dd", "div", "dl", "dt", "fieldset", "figcaption"),
        *("li", "tbody", "tr"),
    )
)
CELLS = frozenset(("td", "th"))
LISTS = frozenset(("ol", "ul"))
UNSEEN = frozenset(("head", "script", "style", "template", "title"))
# "<![if mso]>" is a comment to browsers too, but an error to Python's parser.
COMMENT = re.compile(r"<!--(?:-?>|.*?(?:-->|\Z))|<!\[[^>]*>?", re.DOTALL)
WEB = ("http://", "https://")


def html_to_text(html: str) -> str:
    """Render HTML as plain text: blocks become lines, a link shows its address.

    >>> print(html_to_text("<h1>Hi&nbsp;Ann</h1><p>The <a href='https://x.io/1'>file</a> is ready"))
    Hi Ann
    <BLANKLINE>
    The file (https://x.io/1) is ready
    """
    reader = _Reader()
    reader.feed(COMMENT.sub("", html))
    reader.close()
    return reader.text()


class _Reader(HTMLParser):
    """Collects text; a gap or a space is written only before further text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._pieces: list[str] = []
        self._gap = 0
        self._space = False
        self._marker = ""
        self._unseen: list[str] = []
        self._lists: list[int | None] = []
        self._preformatted = 0
        self._link: tuple[str, int] | None = None

    def text(self) -> str:
        self._end_link()
        lines = "".join(self._pieces).replace("\xa0", " ").split("\n")
        return "\n".join(line.rstrip() for line in lines).strip()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in UNSEEN:
            self._unseen.append(tag)
        elif tag == "body":
            self._unseen.clear()
        elif tag == "a":
            self._end_link()
            self._link = (_web_address(dict(attrs).get("href")), len(self._pieces))
        elif tag in LISTS:
            self._break_line(1 if self._lists else 2)
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "br":
            self._break_line(min(self._gap + 1, 2))
        elif tag == "img":
            self.handle_data(dict(attrs).get("alt") or "")
        else:
            self._start_block(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif tag == "a":
            self._end_link()
        elif tag in LISTS:
            del self._lists[-1:]
            self._break_line(1 if self._lists else 2)
        elif tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        self._end_block(tag)

    def handle_data(self, data: str) -> None:
        if self._unseen:
            return
        if self._preformatted:
            self._write(data.replace("\r\n", "\n"))
            return
        folded = re.sub(r"[ \t\r\n\f]+", " ", data)
        self._space |= folded.startswith(" ")
        if words := folded.strip(" "):
            self._write(words)
            self._space = folded.endswith(" ")

    def _write(self, text: str) -> None:
        if self._pieces and self._gap:
            self._pieces.append("\n" * self._gap)
        elif self._pieces and self._space:
            self._pieces.append(" ")
        self._pieces.append(self._marker + text)
        self._gap, self._space, self._marker = 0, False, ""

    def _break_line(self, gap: int) -> None:
        self._gap = max(self._gap, gap)
        self._space = False

    def _start_block(self, tag: str) -> None:
        self._end_block(tag)
        if tag == "hr":
            self._write("---")
            self._break_line(2)
        elif tag == "li":
            self._marker = self._next_marker()
        elif tag == "pre":
            self._preformatted += 1

    def _end_block(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self._break_line(2)
        elif tag in LINES:
            self._break_line(1)
        elif tag in CELLS:
            self._space = True

    def _next_marker(self) -> str:
        if not self._lists:
            return "- "
        indent = "  " * (len(self._lists) - 1)
        number = self._lists[-1]
        if number is None:
            return f"{indent}- "
        self._lists[-1] = number + 1
        return f"{indent}{number + 1}. "

    def _end_link(self) -> None:
        if self._link is None:
            return
        (address, start), self._link = self._link, None
        label = "".join(self._pieces[start:]).strip()
        if not address or label.rstrip("/") in _spellings(address):
            return
        if label:
            self._pieces.append(f" ({address})")
        else:
            self._write(address)


def _web_address(href: str | None) -> str:
    address = "".join((href or "").split())
    if address.lower().startswith("mailto:"):
        return address[len("mailto:") :].partition("?")[0]
    return address if address.lower().startswith(WEB) else ""


def _spellings(address: str) -> tuple[str, str]:
    """Return the address in the forms that a link's text may have, so as not to repeat it."""
    short = address.rstrip("/")
    return short, short.partition("://")[2]
