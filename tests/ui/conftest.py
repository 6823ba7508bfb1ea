"""Airflow, its runs, and a browser for the session; the pictures go to .work/screenshots/."""

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
from tests.ui.world import World, make_world

WINDOW = (1400, 900)  # a usual laptop's
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
QUIET = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    with make_world() as made:
        yield made


@pytest.fixture(scope="session")
def ui(world: World) -> Iterator[Ui]:
    pictures = REPO / ".work" / "screenshots" / AIRFLOW_VERSION
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    options = [*QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # as root it has no sandbox
    width, height = WINDOW
    with tempfile.TemporaryDirectory(prefix="kpo-cleanup-browser-") as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=CHROMIUM, args=options, viewport={"width": width, "height": height}, locale="en-US"
        )
        browser.set_default_timeout(60_000)  # milliseconds; the machine may be busy with other tests
        yield (Airflow3Ui if IS_AIRFLOW_3 else Airflow2Ui)(browser.pages[0], world.airflow, pictures)
        browser.close()
