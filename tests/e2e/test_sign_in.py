"""Sign-in as `vibetuner new auth` writes it, used as a person uses it."""

from __future__ import annotations

import email
import re
from email import policy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import expect
from tests.processes import Site, wait_until

if TYPE_CHECKING:
    from playwright import sync_api as playwright

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"
# Wider than a phone, without a place to break.
EVE = f"eve.{'x' * 50}@example.com"


def test_sign_in_by_mail_and_then_by_password(page: playwright.Page, project: Path, site: Site):
    """A mailed link signs in once, and a password afterwards.

    No script can read the session, and signing out reaches the other tab.
    """
    page.goto("/account")
    page.get_by_label("Email", exact=True).fill(EVE.title())
    page.get_by_role("button", name="Send me a link").click()
    expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()

    link = wait_for_link(project, EVE)
    assert link.startswith(f"{site.url}/sign-in/link?token=")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(link)
    button = page.get_by_role("button", name="Sign in")
    box = button.bounding_box()
    assert box
    assert box["x"] + box["width"] <= 390
    button.click()
    expect(page.get_by_text(f"You are signed in as {EVE}")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    page.get_by_label("New password").fill(PASSWORD)
    page.get_by_role("button", name="Set the password").click()
    page.get_by_role("button", name="Sign out").click()
    page.goto(link)
    expect(page.get_by_role("alert")).to_contain_text("too old, or has been used")

    page.get_by_label("Email, with a password").fill(EVE)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name="Your account")).to_be_visible()

    other = page.context.new_page()
    with other.expect_response("**/account/events"):  # it listens
        other.goto("/account")
    page.get_by_role("button", name="Sign out").click()
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def wait_for_link(project: Path, address: str) -> str:
    """Return the link of the mail to an address."""
    links: list[str] = []

    def has_come() -> bool:
        for file in (project / ".vibetuner" / "outbox").glob("*.eml"):
            mail = email.message_from_bytes(file.read_bytes(), policy=policy.default)
            if mail["To"] == address:
                text = mail.get_body(("html",)).get_content()
                links.extend(re.findall(r'href="(http\S+)"', text))
        return bool(links)

    wait_until(has_come)
    return links[0]
