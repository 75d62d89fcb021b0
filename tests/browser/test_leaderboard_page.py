"""The leaderboard as a reader sees it: a real TensorBoard in a real, headless Chromium.

Needs Debian's package chromium (or a Chromium in ``RLZOO_CHROMIUM``) and Playwright from PyPI,
which only drives it; ``make test-browser`` installs both. Screenshots are kept in ``artifacts/``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlzoo.report.leaderboard import Built, build
from rlzoo.report.leaderboard_table import SuiteFacts
from rlzoo.report.records import Record
from rlzoo.report.tensorboard_server import TensorBoard

ARTIFACTS = Path(__file__).parent / "artifacts"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOPPER, CHEETAH = "Hopper-v4", "HalfCheetah-v4"

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def chromium() -> str | None:
    given = os.environ.get("RLZOO_CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


def record(agent: str, env: str, seed: int, last: float, **fields: Any) -> Record:
    curve = tuple((step, last * step / 20_000) for step in range(2_000, 20_001, 2_000))
    final = {"return_mean": last, "return_std": 9.0, "episodes": 10}
    facts: dict[str, Any] = {
        "dataset": f"rlzoo/{env.split('-')[0].lower()}/medium-v0",
        "total_timesteps": 20_000,
        "final": final,
        "best": {**final, "step": 20_000},
        "curve": curve,
        "steps_per_second": 55.5,
        "wall_seconds": 400.0,
        "device": "cpu",
        "commit": "0123abc",
        "date": "2026-01-02T03:04:05+00:00",
        **fields,
    }
    return Record("mujoco", "small", agent, "cpu", env, seed, "ok", **facts)


def records() -> list[Record]:
    runs = [
        record(agent, env, seed, base + 100 * seed)
        for agent, base in (("bear", 1200.0), ("td3", 300.0))
        for env in (HOPPER, CHEETAH)
        for seed in range(3)
    ]
    # A failed run, another library, and names that HTML and folders do not like.
    runs.append(Record("mujoco", "small", "sac", "cpu", HOPPER, 0, "failed", error="out of memory"))
    runs.append(record("cql", HOPPER, 0, 1234.5, source="d3rlpy", metrics={"own_metric": 0.25}))
    runs.append(record("<b>bold</b>", HOPPER, 0, 777.0))
    return runs


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    facts = {"mujoco": SuiteFacts("Batch RL on MuJoCo", "normalized", target=100.0)}
    return build(records(), tmp_path_factory.mktemp("leaderboard"), facts)


@pytest.fixture(scope="module")
def url(built: Built) -> Iterator[str]:
    with TensorBoard(built.view, port=0) as server:
        yield server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = chromium()
    if path is None:
        pytest.skip("no Chromium here (apt-get install chromium, or set RLZOO_CHROMIUM)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here (pip install 'rlzoo[browser]')"
    )
    with playwright.sync_playwright() as driver:
        # Without the sandbox: in containers, root may not have one. It only sees our own server.
        chrome = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chrome
        chrome.close()


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page that fails the test for errors of its scripts and keeps a screenshot at the end."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{request.node.name.removeprefix('test_')}.png")
    page.close()
    assert errors == []


def text_of(page: Any, selector: str) -> str:
    """Text of an element with everything in its shadow roots, which ``inner_text`` leaves out."""
    text: str = page.locator(selector).first.evaluate(
        """root => {
            const parts = [];
            const walk = node => {
                if (node.nodeType === Node.TEXT_NODE) {
                    const name = node.parentNode && node.parentNode.nodeName;
                    const text = node.textContent.trim();
                    if (text && name !== 'STYLE' && name !== 'SCRIPT') parts.push(text);
                }
                if (node.shadowRoot) walk(node.shadowRoot);
                node.childNodes.forEach(walk);
            };
            walk(root);
            return parts.join(' | ');
        }"""
    )
    return text


def test_hparams_has_every_column_agent_and_number(page: Any, url: str, built: Built) -> None:
    page.goto(f"{url}#hparams")
    # Playwright looks into shadow roots, in which TensorBoard keeps this page.
    page.get_by_text("Number of matching session groups: 15").wait_for()
    page.get_by_text("bear/Hopper-v4/seed_2").first.wait_for()
    shown = text_of(page, "tf-hparams-main")
    for column in (
        *("agent", "env", "seed", "status", "source", "preset", "commit", "dataset", "steps"),
        *("final/return", "final/normalised", "final/own_metric", "best/return", "paper/value"),
        *("paper/verdict", "speed/steps_per_second", "speed/wall_seconds"),
    ):
        assert f"| {column} |" in shown, column
    for session in ("td3/HalfCheetah-v4/seed_1", "sac/Hopper-v4/seed_0", "cql-d3rlpy/Hopper-v4"):
        assert session in shown
    assert "cql [d3rlpy]" in shown
    assert "<b>bold</b>" in shown  # as text
    # Return of bear in Hopper, seed 2, in the row of that session.
    assert re.search(r"bear/Hopper-v4/seed_2 \| bear \|[^/]*/hopper/[^/]*\| 1400\.0 ", shown)


def test_scalars_show_curves_of_runs(page: Any, url: str) -> None:
    page.goto(f"{url}#scalars")
    page.get_by_text("curve", exact=True).first.click()  # closed at first
    page.get_by_text("curve/normalised score").first.wait_for()
    page.locator("vz-line-chart2").first.wait_for()
    assert "bear/Hopper-v4/seed_0" in text_of(page, "tf-scalar-dashboard")


def test_custom_scalars_draw_one_band_per_agent(page: Any, url: str) -> None:
    page.goto(f"{url}#custom_scalars")
    for env in (HOPPER, CHEETAH, "all environments"):
        page.get_by_text(env, exact=True).first.wait_for()
    cards = page.locator("tf-custom-scalar-margin-chart-card")
    assert cards.count() == 3
    chart = cards.filter(has_text=HOPPER).first
    chart.scroll_into_view_if_needed()
    shaded = chart.locator("svg .area, svg path.area, svg .area-plot path, svg [class*=area]")
    shaded.first.wait_for(state="attached")
    shown = text_of(page, "tf-custom-scalar-dashboard")
    assert "IQM with 95 % band over steps" in shown
    for run in ("bear", "td3", "cql-d3rlpy", "bear-published"):
        assert f"{HOPPER}/iqm (_leaderboard/{run})" in shown


def test_text_is_the_table(page: Any, url: str, built: Built) -> None:
    page.goto(f"{url}#text")
    page.locator("table").first.wait_for()
    rows = {
        cells[0]: cells
        # The first table is TensorBoard's list of steps; ours are inside of it.
        for row in page.locator("table table").first.locator("tr").all()
        if (cells := row.locator("td").all_inner_texts())
    }
    assert set(rows) == {"bear", "td3", "sac", "cql [d3rlpy]", "<b>bold</b>"}
    (table,) = built.tables
    bear = next(row for row in table.rows if row.name == "bear")
    hopper = next(cell for cell in bear.cells if cell.env == HOPPER)
    assert hopper.estimate is not None
    assert f"{hopper.estimate.value:.1f} +- {hopper.sd:.1f} (n=3)" in rows["bear"]
    assert f"{bear.statistics['IQM'].value:.1f}" in rows["bear"][3]
    assert rows["cql [d3rlpy]"][2] == "1 of 2"
    assert "failed" in rows["sac"]
    shown = text_of(page, "tf-text-dashboard")
    assert "Against the papers" in shown
    assert "sac, Hopper-v4, seed 0 failed: out of memory" in shown
    assert page.locator("tf-text-dashboard b", has_text="bold").count() == 0


def test_images_are_loaded(page: Any, url: str) -> None:
    page.goto(f"{url}#images")
    for tag in ("environments", f"curves/{HOPPER}"):
        page.get_by_text(tag, exact=True).first.wait_for()
    page.wait_for_function(
        """() => {
            const found = [];
            const walk = node => {
                if (node.nodeName === 'IMG' && node.naturalWidth > 300) found.push(node);
                if (node.shadowRoot) walk(node.shadowRoot);
                node.childNodes.forEach(walk);
            };
            walk(document.body);
            return found.length >= 2;
        }"""
    )
