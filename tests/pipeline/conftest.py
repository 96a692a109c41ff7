"""Chromium for the tests that click through a page."""

import shutil
from pathlib import Path

import pytest

from tests.pipeline.report_series_builder import make_results

BROWSER_FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def report_results(tmp_path_factory) -> tuple[Path, dict]:
    """(results folder with one CT and one MR page, volumes of the CT series)."""
    return make_results(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="session")
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A function (path, hash, state to wait for, context options) that opens a page's file and returns (page, wrong).

    `wrong` gathers errors, warnings and every request that leaves the file.
    """
    contexts = []

    def open_file(path: Path, fragment: str = "", status: str | None = "ready", **options):
        context = chromium.new_context(**({"viewport": {"width": 1366, "height": 768}} | options))
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.set_default_timeout(60_000)
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else wrong.append(r.url))
        page.goto(path.as_uri() + fragment)
        if status:
            page.wait_for_selector(f"html[data-status={status}]", state="attached")
        if status == "ready":
            page.wait_for_selector("html[data-unpacked=all]", state="attached")
        return page, wrong

    yield open_file
    for context in contexts:
        context.close()


@pytest.fixture
def ct(report_results, open_page):
    """The CT page, ready; at the end nothing must have gone wrong."""
    page, wrong = open_page(report_results[0] / "reports/c_s_n.html")
    yield page
    assert wrong == []
