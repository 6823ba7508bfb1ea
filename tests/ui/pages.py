"""Page objects for the pages of Airflow's UI that show the cleanup, with the same methods for Airflow 2 and 3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from playwright.sync_api import FloatRect, Locator, Page, ViewportSize, expect

from demo.airflow import Airflow

CLEANUP = "kpo_cleanup"
DAG = f"/dags/{CLEANUP}"
LINE_HEIGHT = 18  # pixels of a line in the log view of Airflow 3

# Returns how many texts match a pattern, and the matches that are clipped at their right edge.
# Airflow 2 renders its grid, which contains the logs, in a shadow tree.
_FIND_CLIPPED = """pattern => {
    const range = document.createRange(), clipped = [];
    let found = 0;
    const check = text => {
        for (const match of text.data.matchAll(new RegExp(pattern, "g"))) {
            range.setStart(text, match.index);
            range.setEnd(text, match.index + match[0].length);
            let edge = window.innerWidth;
            for (let box = text.parentElement; box; box = box.parentElement)
                if (getComputedStyle(box).overflowX != "visible")
                    edge = Math.min(edge, box.getBoundingClientRect().right);
            found += 1;
            if (range.getBoundingClientRect().right > edge) clipped.push(match[0]);
        }
    };
    const walk = node => {
        if (node.nodeType == Node.TEXT_NODE) check(node);
        node.childNodes.forEach(walk);
        if (node.shadowRoot) walk(node.shadowRoot);
    };
    walk(document.body);
    return [found, clipped];
}"""


class Browser:
    """A browser with a logged-in user."""

    def __init__(self, page: Page, airflow: Airflow, screenshots: Path) -> None:
        self.page = page
        self._url = airflow.url
        self._screenshots = screenshots
        self._log_in(airflow.user, airflow.password)

    def screenshot(self, name: str) -> None:
        """Save a screenshot of the visible part of the page."""
        self.page.screenshot(path=self._screenshots / f"{name}.png", animations="disabled")

    def picture(self, name: str, part: Locator | FloatRect, first: str = "", lines: int = 0) -> None:
        """Save a picture of a part of the page for the documentation, which shows Airflow 3 only.

        :param first: the text of the line of a log with which the picture starts.
        :param lines: how many lines it has if the log is longer.
        """

    def find_clipped(self, pattern: str) -> tuple[int, list[str]]:
        """Return how many texts match a JavaScript regular expression, and those that are not visible to their end."""
        found, clipped = self.page.evaluate(_FIND_CLIPPED, pattern)
        return found, clipped

    @contextmanager
    def window(self, **size: int) -> Iterator[None]:
        """Change the width or the height of the window."""
        before = self._size
        self.page.set_viewport_size(cast(ViewportSize, {**before, **size}))
        yield
        self.page.set_viewport_size(before)

    @property
    def _size(self) -> ViewportSize:
        size = self.page.viewport_size
        assert size
        return size

    def edges(self) -> Locator:
        """Return the edges of the graph that is shown."""
        return self.page.locator(".react-flow__edge")

    def field(self, name: str) -> Locator:
        """Return a field of the trigger form."""
        return self.page.locator(f"[name=element_{name}]")

    def trigger(self) -> None:
        """Submit the trigger form."""
        self._submit().click()

    def _submit(self) -> Locator:
        raise NotImplementedError

    def _go(self, path: str) -> None:
        self.page.goto(f"{self._url}{path}")

    def _log_in(self, user: str, password: str) -> None:
        raise NotImplementedError


class Airflow3Ui(Browser):
    """The UI of Airflow 3, which stores the layout of its pages in the browser."""

    def _log_in(self, user: str, password: str) -> None:
        self._go("/auth/login/")
        self.page.get_by_label("Username").fill(user)
        self.page.locator("input[type=password]").fill(password)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(lambda url: "login" not in url)

    def picture(self, name: str, part: Locator | FloatRect, first: str = "", lines: int = 0) -> None:
        box = part.bounding_box() if isinstance(part, Locator) else part
        assert box
        bottom = min(box["y"] + box["height"], self._size["height"])
        if first and isinstance(part, Locator):
            line = part.get_by_text(first).bounding_box()
            assert line
            box["y"] = line["y"] - 2
        box["height"] = min(bottom - box["y"], lines * LINE_HEIGHT or bottom)
        path = self._screenshots / "pictures" / f"{name}.png"
        self.page.screenshot(path=path, animations="disabled", clip=box)

    def dags(self) -> Locator:
        self._go("/dags")
        return self.page.locator("body")

    def dag(self) -> Locator:
        self._arrange("grid", 33)
        self._go(DAG)
        return self.page.locator("body")

    def docs(self) -> Locator:
        self._arrange("grid", 20)
        self._go(DAG)
        self.page.get_by_role("button", name="Dag Docs").click()
        return self._dialog()

    def trigger_form(self, dag_id: str = CLEANUP) -> Locator:
        self._arrange("grid", 20)
        self._go(f"/dags/{dag_id}")
        self.page.get_by_role("button", name="Trigger Dag").click()
        return self._dialog()

    def error_for(self, name: str, value: str) -> str:
        """Enter a value, and return the error message of the form or, if the form accepts it, of the server."""
        self.field(name).fill(value)
        self.field(name).blur()
        expect(self.field(name)).to_have_value(value)
        self.trigger()
        return self._dialog().locator(".chakra-alert__root").inner_text()

    def unpause(self, dag_id: str) -> None:
        self._arrange("grid", 20)
        self._go(f"/dags/{dag_id}")
        self.page.get_by_test_id("toggle-pause").click()

    def graph(self, run_id: str) -> Locator:
        self._arrange("graph", 70)
        self._go(f"{DAG}/runs/{quote(run_id)}")
        return self.page.locator(".react-flow__node")

    def log(self, run_id: str, task_id: str, dag_id: str = CLEANUP) -> Locator:
        self._arrange("grid", 20)
        self._go(f"/dags/{dag_id}/runs/{quote(run_id)}/tasks/{task_id}")
        return self.page.get_by_test_id("virtual-scroll-container")

    def xcom(self, run_id: str, task_id: str) -> Locator:
        self._arrange("grid", 20)
        self._go(f"{DAG}/runs/{quote(run_id)}/tasks/{task_id}/xcom")
        self.page.get_by_text("return_value").wait_for()
        self.page.get_by_role("button", name="Expand all").click()
        return self.page.locator("tr", has_text="return_value")

    def summaries(self, task_id: str) -> Locator:
        """Return the list of the XComs `summary` of a task."""
        self._go(f"/xcoms?dag_display_name_pattern={CLEANUP}&xcom_key_pattern=summary&task_id_pattern={task_id}")
        return self.page.locator("tbody")

    def _dialog(self) -> Locator:
        return self.page.locator("[role=dialog][data-state=open]")

    def _submit(self) -> Locator:
        return self._dialog().get_by_role("button", name="Trigger")

    def _arrange(self, view: str, percent: int) -> None:
        """Choose grid or graph, and its share of the width; Airflow's defaults are 20 and 70 percent."""
        panels = json.dumps({"details-panel,main-panel": {"expandToSizes": {}, "layout": [percent, 100 - percent]}})
        stored: dict[str, Any] = {"default_dag_view": json.dumps(view), f"react-resizable-panels:{view}-ltr": panels}
        self.page.evaluate("stored => Object.assign(localStorage, stored)", stored)


class Airflow2Ui(Browser):
    """The UI of Airflow 2, where logs, XComs and the graph are tabs next to the grid."""

    def _log_in(self, user: str, password: str) -> None:
        self._go("/login/")
        self.page.locator("[name=username]").fill(user)
        self.page.locator("[name=password]").fill(password)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url(lambda url: "login" not in url)

    def dags(self) -> Locator:
        self._go("/home")
        return self.page.locator("body")

    def dag(self) -> Locator:
        self._go(f"{DAG}/grid")
        return self.page.locator("body")

    def docs(self) -> Locator:
        self._go(f"{DAG}/grid")
        self.page.get_by_text("DAG Docs").click()
        return self.page.locator("#collapseOne")

    def trigger_form(self, dag_id: str = CLEANUP) -> Locator:
        self._go(f"/dags/{dag_id}/trigger")
        return self.page.locator("form", has=self.field("settle_seconds"))

    def error_for(self, name: str, value: str) -> str:
        """Enter a value, and return the error message of the form or, if the form accepts it, of the server."""
        field = self.field(name)
        field.fill(value)
        if not field.evaluate("field => field.checkValidity()"):
            return str(field.evaluate("field => field.validationMessage"))
        self.trigger()
        return self.page.locator(".alert", has_text="Invalid input").inner_text()

    def unpause(self, dag_id: str) -> None:
        self._go(f"/dags/{dag_id}/grid")
        self.page.locator("#pause_resume").locator("xpath=ancestor::label").click()

    def graph(self, run_id: str) -> Locator:
        self._tab("graph", run_id)
        return self.page.locator(".react-flow__node")

    def log(self, run_id: str, task_id: str, dag_id: str = CLEANUP) -> Locator:
        return self._tab("logs", run_id, task_id, dag_id)

    def xcom(self, run_id: str, task_id: str) -> Locator:
        return self._tab("xcom", run_id, task_id)

    def summaries(self, task_id: str) -> Locator:
        self._go(f"/xcom/list/?_flt_3_dag_id={CLEANUP}&_flt_3_key=summary&_flt_3_task_id={task_id}")
        return self.page.locator("tbody")

    def _submit(self) -> Locator:
        return self.page.get_by_role("button", name="Trigger", exact=True)

    def _tab(self, tab: str, run_id: str, task_id: str = "", dag_id: str = CLEANUP) -> Locator:
        task = f"&task_id={task_id}" if task_id else ""
        self._go(f"/dags/{dag_id}/grid?dag_run_id={quote(run_id)}{task}&tab={tab}")
        return self.page.get_by_role("tabpanel").filter(visible=True)


Ui = Airflow2Ui | Airflow3Ui
