"""The generated project in a browser, used as a person uses it."""

from __future__ import annotations

import csv
import email
from email import policy
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import expect
from tests.processes import Site, wait_until

if TYPE_CHECKING:
    from playwright import sync_api as playwright

pytestmark = pytest.mark.slow

DEMO_ORDERS = 10_000
# The second press comes while the first request is on its way.
PRESS_TWICE = """
    () => {
        const press = () => document.getElementById("signup")?.click();
        press();
        setTimeout(press, 10);
    }
"""


def test_an_export_moves_and_its_file_holds_every_order(page: playwright.Page, tmp_path: Path):
    """An export's bar moves up to its end, and the downloaded file holds every order."""
    page.goto("/")
    card = start_export(page)

    positions = watch_bar(card)

    assert len(positions) >= 4, positions
    assert positions == sorted(positions)
    expect(card).to_contain_text("Done")
    expect(card).to_contain_text("10,000 orders")
    with page.expect_download() as download:
        card.get_by_role("link", name="Download").click()
    file = tmp_path / "orders.csv"
    download.value.save_as(file)
    with file.open(encoding="utf-8", newline="") as lines:
        header, *rows = csv.reader(lines)
    assert header[0] == "number"
    assert len({row[0] for row in rows}) == DEMO_ORDERS


def test_an_export_can_be_cancelled(page: playwright.Page, project: Path):
    """A cancelled export stops at once, and leaves no half-written file."""
    page.goto("/")
    card = start_export(page)
    expect(card).to_contain_text("Running", timeout=10_000)

    card.get_by_role("button", name="Cancel").click()

    expect(card).to_contain_text("Cancelled")
    expect(card.get_by_role("link", name="Download")).to_have_count(0)
    number = card.get_attribute("id").removeprefix("export-")
    folder = project / ".vibetuner" / "exports"
    wait_until(lambda: not list(folder.glob(f"orders-{number}*")))


def test_back_shows_the_exports_that_are_there_now(page: playwright.Page):
    """Back from another page shows an export that was started after the page was loaded."""
    page.goto("/")
    card = start_export(page)
    name = card.get_attribute("id")
    page.get_by_role("link", name="Sign up").click()
    expect(page.get_by_role("heading", name="Sign up")).to_be_visible()

    page.go_back()

    expect(page.locator(f"#{name}")).to_contain_text("Done", timeout=30_000)


def test_a_signup_sends_a_welcome_mail(page: playwright.Page, project: Path):
    """A sign-up sends a mail to the typed address, which does not contain the typed name."""
    page.goto("/signup")
    page.get_by_label("Name").fill("Ann <b>O'Neill</b>")
    page.get_by_label("Email").fill("Ann@Example.com")
    page.get_by_role("button", name="Sign up").click()

    expect(page.get_by_role("heading", name="Welcome!")).to_be_visible()
    outbox = project / ".vibetuner" / "outbox"

    def to_ann() -> list[Message]:
        files = [path.read_bytes() for path in outbox.glob("*.eml")]
        letters = [email.message_from_bytes(file, policy=policy.default) for file in files]
        return [letter for letter in letters if letter["To"] == "ann@example.com"]

    [letter] = wait_until(to_ann)
    assert letter["Subject"] == "Welcome!"
    text = letter.get_body(("plain",)).get_content()
    assert "You have signed up to My Project" in text
    assert "O'Neill" not in text


def test_the_same_address_signs_up_once(page: playwright.Page):
    """A second sign-up with an address is refused, and the form keeps the address."""
    for _ in range(2):
        page.goto("/signup")
        page.get_by_label("Email").fill("twice@example.com")
        page.get_by_role("button", name="Sign up").click()
        page.wait_for_load_state()

    expect(page.get_by_text("already")).to_be_visible()
    expect(page.get_by_label("Email")).to_have_value("twice@example.com")


def test_a_double_press_sends_a_form_once(page: playwright.Page):
    """A second press before the answer is ignored; the form can be sent again after Back.

    The second request once met the account of the first, so people saw a refusal.
    """
    posts: list[str] = []
    page.on("request", lambda one: posts.append(one.url) if one.method == "POST" else None)
    page.goto("/signup")
    page.get_by_label("Email").fill("double@example.com")
    page.evaluate(PRESS_TWICE)
    expect(page.get_by_role("heading", name="Welcome!")).to_be_visible()
    assert len(posts) == 1

    page.go_back()
    page.get_by_label("Email").fill("double@example.com")
    page.get_by_role("button", name="Sign up").click()
    expect(page.get_by_text("already")).to_be_visible()


def test_the_page_works_by_keyboard_alone(page: playwright.Page):
    """An export can be started and cancelled with Tab and Enter."""
    page.goto("/")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "start":
            break
    page.keyboard.press("Enter")
    card = page.locator("#exports article").first
    expect(card.get_by_role("button", name="Cancel")).to_be_visible()
    card.get_by_role("button", name="Cancel").press("Enter")

    expect(card).to_contain_text("Cancelled")


@pytest.mark.parametrize("path", ["/", "/signup"])
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(page: playwright.Page, path: str, width: int):
    """No page scrolls sideways, in a window as wide as a small phone or a desktop."""
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(path)

    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_export_works_without_javascript(browser: playwright.Browser, site: Site):
    """Without JavaScript, the form starts an export, and a reload shows its end."""
    context = browser.new_context(base_url=site.url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    start_export(page)

    def is_done() -> bool:
        page.reload()
        return "Done" in page.locator("#exports article").first.inner_text()

    wait_until(is_done, seconds=30, pause=0.5)  # each look loads the page
    context.close()


def start_export(page: playwright.Page) -> playwright.Locator:
    """Return the card of the new export, and not of an earlier one."""
    cards = page.locator("#exports article")
    before = cards.count()
    page.get_by_role("button", name="Start an export").click()
    expect(cards).to_have_count(before + 1)
    return cards.first


def watch_bar(card: playwright.Locator) -> list[int]:
    """Return the positions that the bar takes until the export is done."""
    positions: list[int] = []

    def is_done() -> bool:
        if "Done" in card.inner_text():
            return True
        value = card.locator("progress").first.evaluate(
            "bar => bar.getAttribute('value')", timeout=1000
        ) if card.locator("progress").count() else None  # fmt: skip
        if value is not None and (not positions or int(value) != positions[-1]):
            positions.append(int(value))
        return False

    wait_until(
        is_done,
        seconds=30,
        pause=0.15,
        what=lambda: f"Done: {card.inner_text()}, bar at {positions}",
    )
    return positions
