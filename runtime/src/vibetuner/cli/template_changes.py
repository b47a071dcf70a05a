"""``vibetuner template-changes``: shows what an update of the template would bring."""

from __future__ import annotations

from typing import Annotated

import typer

NOTHING_NEWER = 3


def template_changes(
    version: Annotated[
        str, typer.Argument(help="A version such as v0.2.0; the newest by default.")
    ] = "",
    committed: Annotated[
        bool, typer.Option("--committed", help="Refuse while something is not committed.")
    ] = False,
) -> None:
    """Show what is new in the template and the runtime.

    The project's version is compared with the newest, or with VERSION. Exit code 0 if there is
    something new, 3 if there isn't, 1 if the template can't be reached or something is not
    committed.
    """
    from vibetuner.cli.template_news import check_committed, fetch_news, sections_between
    from vibetuner.project import project_root

    root = project_root()
    if committed:
        check_committed(root)
    news = fetch_news(root, version)
    if news.present == news.next:
        print(f"{news.present} is {'this version' if version else 'the newest version'} already.")
        raise typer.Exit(NOTHING_NEWER)
    print(f"The template and the runtime go from {news.present} to {news.next}.\n")
    print(
        sections_between(news.changelog, news.present, news.next)
        or "The changelog has no section for it."
    )
