"""Prefect's UI as a person uses it: real clicks in Chromium, and pictures of what is on the screen."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, ViewportSize, expect, sync_playwright

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
WINDOW: ViewportSize = {"width": 1280, "height": 800}
PATIENCE_SECONDS = 120
RELOADS = 3


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or None."""
    return next((path for path in map(shutil.which, CHROMIUM_NAMES) if path), None)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Run the Chromium at this path without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class PrefectUI:
    """One tab with Prefect's UI (version 1, the one that it opens with)."""

    def __init__(self, page: Page, base_url: str, pictures: Path | None) -> None:
        self._page = page
        self._base_url = base_url
        self._pictures = pictures
        page.set_default_timeout(PATIENCE_SECONDS * 1000)

    def open_run(self, flow_run_id: str) -> None:
        """Open the page of a flow run and wait until it shows the run's state."""
        self._page.goto(f"{self._base_url}/runs/flow-run/{flow_run_id}", wait_until="domcontentloaded")
        expect(self._state).to_be_visible()

    def press(self, button: str) -> None:
        """Press the button of this name; a dialog or a menu may open."""
        self._page.get_by_role("button", name=button, exact=True).click()

    def confirm(self, button: str) -> datetime:
        """Press the button in the open dialog; return the time just before."""
        pressed = datetime.now(UTC)
        self._page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
        return pressed

    def wait_for_state(self, name: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until the open page of a run shows this state, without loading the page again."""
        expect(self._state).to_have_text(name, timeout=seconds * 1000)

    def open_form(self, deployment: str) -> None:
        """Go to a deployment by the menu, and to the form that starts a run of it."""
        self._page.goto(self._base_url, wait_until="domcontentloaded")
        self.press("Deployments")
        # Each row links to its flow too, which has the same name.
        link = self._page.locator('a[href*="/deployments/deployment/"]').get_by_text(deployment, exact=True).first
        link.click()
        # A click on a list that is just drawn anew is lost: click again.
        _insist(expect(self._page).to_have_url, re.compile("/deployments/deployment/"), otherwise=link.click)
        # A request of the page that failed while the machine was busy leaves it without its buttons: look again.
        run = self._page.get_by_role("button", name="Run", exact=True)
        _insist(expect(run).to_be_visible, otherwise=partial(self._page.reload, wait_until="domcontentloaded"))
        run.click()
        self.picture("deployment")
        self._page.get_by_text("Custom run", exact=True).click()

    def fill(self, label: str, value: object) -> None:
        """Type a value into the field of the form that has this label."""
        field = self._field(label)
        # A field that may stay empty has buttons for what it is to hold.
        number = field.get_by_role("button", name="int", exact=True)
        expect(field).to_be_visible()
        if number.count():
            number.click()
        field.locator("input, textarea").fill(str(value))

    def picture_form(self, name: str) -> None:
        """Take two pictures of the form: its beginning and its end."""
        self._field("Epochs").scroll_into_view_if_needed()
        self.picture(f"{name}-begins")
        self._page.get_by_role("button", name="Submit", exact=True).scroll_into_view_if_needed()
        self.picture(f"{name}-ends")

    def submit_form(self) -> datetime:
        """Start the run; return the time just before."""
        pressed = datetime.now(UTC)
        self.press("Submit")
        return pressed

    def picture(self, name: str) -> None:
        """Save what the window shows as `prefect-NAME.png`, if the tests were given a folder for it."""
        if self._pictures is not None:
            self._pictures.mkdir(parents=True, exist_ok=True)
            # Else the graph of the run's tasks is not drawn yet.
            self._page.wait_for_load_state("networkidle")
            self._page.screenshot(path=self._pictures / f"prefect-{name}.png", animations="disabled")

    @property
    def _state(self) -> Locator:
        return self._page.locator(".state-badge").first

    def _field(self, label: str) -> Locator:
        title = self._page.locator(".schema-form-property__label").get_by_text(
            re.compile(rf"^{re.escape(label)}( \(Optional\))?$")
        )
        # The innermost property around the title: the whole form is one as well.
        return self._page.locator(".schema-form-property").filter(has=title).last


def _insist(expected: Callable[..., None], *arguments: object, otherwise: Callable[[], object]) -> None:
    """Wait for what is expected in RELOADS parts of the patience, and do `otherwise` between them."""
    seconds = PATIENCE_SECONDS / RELOADS
    for _ in range(RELOADS - 1):
        try:
            return expected(*arguments, timeout=seconds * 1000)
        except AssertionError:
            otherwise()
    expected(*arguments, timeout=seconds * 1000)
