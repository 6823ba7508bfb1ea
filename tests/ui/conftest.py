"""Session fixtures: an Airflow with runs of the cleanup, and a browser. Screenshots go to .work/screenshots/."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import sync_playwright

from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION, IS_AIRFLOW_3
from tests.conftest import REPO
from tests.ui.pages import Airflow2Ui, Airflow3Ui, Ui
from tests.ui.world import World, create_world

WINDOW = (1400, 900)  # a common laptop size
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
CHROMIUM_OPTIONS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with create_world() as created:
        yield created


@pytest.fixture(scope="session")
def ui(world: World) -> Iterator[Ui]:
    screenshots = REPO / ".work" / "screenshots" / AIRFLOW_VERSION
    shutil.rmtree(screenshots, ignore_errors=True)
    screenshots.mkdir(parents=True)
    # Chromium refuses to run as root with a sandbox.
    options = [*CHROMIUM_OPTIONS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    width, height = WINDOW
    with tempfile.TemporaryDirectory(prefix="kpo-cleanup-browser-") as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=options, viewport={"width": width, "height": height}, locale="en-US"
        )
        browser.set_default_timeout(60_000)  # milliseconds; the machine may be busy with other tests
        yield (Airflow3Ui if IS_AIRFLOW_3 else Airflow2Ui)(browser.pages[0], world.airflow, screenshots)
        browser.close()
