"""Takes the pictures of the report that docs/ shows, from any run: `make screenshots RUN=runs/sandbox`.

Needs Chromium and the extra `browser`. The dialogue is the first in which only the left model failed.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

from safer_steer.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COLOURS = 96
"""In a picture's palette; it keeps the files small."""
ONE_FAILED = "#dialogues&outcome=left-only"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        report = write_report(*given.runs, page=Path(folder) / "report.html")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, picture in taken(browser, report.as_uri()).items():
            path = given.out / f"{name}.png"
            Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
        browser.close()


def taken(browser: Browser, address: str) -> dict[str, bytes]:
    """The pictures by name, as PNG."""

    def opened(fragment: str, width: int = 1180, height: int = 900, scheme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        page = context.new_page()
        page.goto(address + fragment)
        return page

    def failure() -> bytes:
        page = opened(ONE_FAILED, scheme="dark")
        page.keyboard.press("f")
        return page.screenshot()

    def part(fragment: str, name: str) -> bytes:
        page = opened(fragment)
        page.locator("nav").evaluate(
            "nav => { nav.style.position = 'static'; }"
        )  # it would lie over the part
        return page.locator(name).screenshot()

    return {
        "report": opened("#results", 1400, 1060).screenshot(),
        "report-survival": part("#survival", "#survival"),
        "report-turns": part("#turns", "#turns"),
        "dialogue": opened(ONE_FAILED, height=1240).screenshot(),
        "report-dark": failure(),
        "report-phone": phone(opened(ONE_FAILED, 390, 844)),
    }


def phone(page: Page) -> bytes:
    """Headline and dialogue on a phone, side by side."""
    shown = [page.screenshot()]
    page.locator(".row").first.click()
    shown.append(page.screenshot())
    page.goto(page.url.partition("#")[0] + "#results")
    shown.insert(0, page.screenshot())
    pictures = [Image.open(io.BytesIO(one)) for one in shown]
    gap = 16
    whole = Image.new("RGB", (sum(one.width + gap for one in pictures) - gap, pictures[0].height), "#888888")
    for place, one in enumerate(pictures):
        whole.paste(one, (place * (one.width + gap), 0))
    buffer = io.BytesIO()
    whole.save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
