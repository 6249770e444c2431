"""Every word of the pages can be read by those who see little: contrast as WCAG AA asks for."""

import asyncio

import pytest

from astroray.report.page import write_report
from tests.browser import open_page
from tests.contrast import faint_words
from tests.labelling_page import serve_labelling
from tests.served_run import make_run

ALL_SHOWN = """
document.querySelectorAll("[aria-pressed]").forEach((one) => { one.ariaPressed = "true"; });
document.querySelectorAll("[hidden]").forEach((one) => { one.hidden = false; });
document.querySelectorAll("details").forEach((one) => { one.open = true; });
"""
"""Pressed buttons and what is shown at times have words too."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of pages, and what is true once each is drawn."""
    run_dir = make_run(tmp_path_factory.mktemp("contrast"))
    write_report(run_dir)
    with serve_labelling(run_dir, ["ana"]) as (address, secret_of):
        login = f"{address}/ui/login"
        yield {
            "report": (f"file://{run_dir}/report/index.html", "document.images.length"),
            "login": (login, "document.forms.length"),
            "endpoints": (f"{address}/", "document.querySelector('h2')"),
            "labelling": (f"{login}#token={secret_of['ana']}", "document.body.dataset.ready"),
        }


@pytest.mark.browser
def test_every_word_stands_out_from_what_is_behind_it(pages, tmp_path):
    async def look():
        found = {}
        async with open_page(tmp_path / "profile", "about:blank") as page:
            for name, (address, drawn) in pages.items():
                await page.call("Emulation.setEmulatedMedia", media="screen")
                await page.call("Page.navigate", url=address)
                await page.until(f"document.readyState === 'complete' && ({drawn})")
                await page.value(ALL_SHOWN)
                found[name, "screen"] = await faint_words(page)
                await page.call("Emulation.setEmulatedMedia", media="print")
                found[name, "print"] = await faint_words(page)
        return found

    for where, (num_words, faint) in asyncio.run(look()).items():
        assert num_words > 3, where
        assert faint == [], where
