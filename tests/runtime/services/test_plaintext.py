"""The text part of a mail, for people without HTML."""

from __future__ import annotations

from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vibetuner.services.plaintext import html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("  a \n\t b  ", "a b"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<div>one</div><div>two</div>", "one\ntwo"),
        ("<h1>Title</h1>text", "Title\n\ntext"),
        ("one<br>two<br/><br>three<br><br><br><br>four", "one\ntwo\n\nthree\n\nfour"),
        ("<b>bold</b><i>er</i> <u>than</u>\n<s>this</s>", "bolder than this"),
        ("a &amp; b &lt;c&gt; &eacute; &#8364; &nbsp;d", "a & b <c> é €  d"),
        ("<ul><li>one<li>two</ul>after", "- one\n- two\n\nafter"),
        ("<ol><li>one</li><li>two</li></ol>", "1. one\n2. two"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ("<ul><li></li><li>only</li></ul>", "- only"),
        ("<table><tr><td>Total</td><td>5 €</td></tr><tr><td>Tax</td><td>1 €</td></tr></table>",
         "Total 5 €\nTax 1 €"),
        ("above<hr>below", "above\n\n---\n\nbelow"),
        ("<pre>a  b\n  c</pre>", "a  b\n  c"),
        ("<img alt='Our logo'><img src=x>", "Our logo"),
    ],
)  # fmt: skip
def test_markup_becomes_layout(html, text):
    """Blocks become lines and lists get marks; whitespace is folded as by a browser."""
    assert html_to_text(html) == text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<a href='https://x.io/a'>here</a>.", "here (https://x.io/a)."),
        ("<a href='https://x.io'>https://x.io/</a>", "https://x.io/"),
        ("<a href='https://x.io/a'>x.io/a</a>", "x.io/a"),
        ("<a href='https://x.io/a'><img src=x></a>", "https://x.io/a"),
        ("<a href='mailto:a@x.io?subject=Hi'>Write</a>", "Write (a@x.io)"),
        ("<a href='mailto:a@x.io'>a@x.io</a>", "a@x.io"),
        ("<a href='#top'>up</a> <a name=x>y</a> <a href='javascript:z()'>z</a>", "up y z"),
        ("<a href='https://x.io/?a=1&amp;b=2'>go</a>", "go (https://x.io/?a=1&b=2)"),
        ("<a href='https://x.io/a'>one<a href='https://x.io/b'>two",
         "one (https://x.io/a)two (https://x.io/b)"),
    ],
)  # fmt: skip
def test_a_link_says_where_it_leads(html, text):
    """A link is followed by its address, unless its label has that or it stays on the page."""
    assert html_to_text(html) == text


@pytest.mark.parametrize(
    "html",
    [
        "<html><head><title>No</title><style>p {}</style></head><body>Yes</body></html>",
        "<head><title>No</title><meta name=x><body>Yes",
        "<script>var no = '<p>No</p>'</script><style>.no {}</style>Yes<template>No</template>",
        "<!-- No -->Yes<!--[if mso]>No<![endif]-->",
        "<![if !mso]>Yes<![endif]>",
        "<p>Yes</p></head></script></ul></li></a></pre>",
    ],
)
def test_what_nobody_sees_is_dropped(html):
    """Heads, styles, scripts and comments are left out."""
    assert html_to_text(html) == "Yes"


def test_a_whole_mail_reads_well():
    """A typical mail, whose source is indented, becomes readable text."""
    html = """
        <!doctype html>
        <html>
          <head><meta charset="utf-8"><title>Export</title></head>
          <body>
            <h1>Your export is ready</h1>
            <p>Hello <strong>Ann</strong>,<br>
               we wrote 10&nbsp;000 rows.</p>
            <ul>
              <li><p>orders.csv</p></li>
              <li>kept for <em>7 days</em></li>
            </ul>
            <p><a href="https://shop.example/exports/1">Download</a></p>
          </body>
        </html>
    """
    assert html_to_text(html) == dedent("""\
        Your export is ready

        Hello Ann,
        we wrote 10 000 rows.

        - orders.csv

        - kept for 7 days

        Download (https://shop.example/exports/1)""")


@given(st.text(st.sampled_from("<>/!-[]&;#=\"' abplitdrx\n") | st.characters(), max_size=200))
def test_no_input_is_too_odd(html):
    """Any input becomes a text without trailing space."""
    lines = html_to_text(html).split("\n")
    assert all(line == line.rstrip() for line in lines)
