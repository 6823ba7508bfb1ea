"""The cleanup in Airflow's UI: everything important is on the page, and nothing is clipped."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from include.kpo_cleanup import __version__
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION
from include.kpo_cleanup.settings import COMPLETED_PODS, OPTIONS, is_run_param
from tests.ui.pages import Ui
from tests.ui.pods import HOUR, PAUSED_NAMESPACE, make_pod
from tests.ui.world import SCHEDULE, World

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

expect.set_options(timeout=60_000)  # milliseconds; the machine may be busy with other tests

KEPT = "kept: owned=1 unmatched=1 stalled=1 active=1 completed=1"
ZOMBIES = 10
DRY_RUN, PAUSED, NIGHTLY = "kpo_cleanup_dry_run", "kpo_cleanup_paused", "nightly_orders"
FIRST_LINE = "kpo_cleanup .* settings on this worker:.*"
STATES_OF_REAP = [
    pytest.param("deleted", "success", id="reap succeeded"),
    pytest.param("skipped", "skipped", id="reap was skipped"),
    pytest.param("forbidden", "failed", id="reap failed"),
]


def test_the_list_of_dags_shows_the_schedule_and_the_tags(ui: Ui) -> None:
    page = ui.dags()
    for text in ("kpo_cleanup", SCHEDULE, "kubernetes", "maintenance"):
        expect(page).to_contain_text(text)
    ui.screenshot("dags")


def test_the_page_of_the_dag_shows_its_schedule_and_its_tasks(ui: Ui) -> None:
    page = ui.dag()
    for text in (SCHEDULE, "list_pods", "fetch_active_tis", "classify", "reap"):
        expect(page).to_contain_text(text)
    ui.screenshot("grid")
    ui.picture("grid", {"x": 70, "y": 138, "width": 430, "height": 198})  # of the window, whose size is fixed


@pytest.mark.parametrize(("run", "state"), STATES_OF_REAP)
def test_the_graph_shows_the_outcome_of_a_run(ui: Ui, world: World, run: str, state: str) -> None:
    nodes = ui.graph(world.runs[run])
    expect(nodes.filter(has_text="reap")).to_contain_text(state)
    expect(nodes.filter(has_text="success")).to_have_count(4 if state == "success" else 3)
    expect(ui.edges()).to_have_count(3)
    ui.screenshot(f"graph-{run}")


def test_the_dag_docs_are_rendered_without_leftover_markdown(ui: Ui) -> None:
    docs = ui.docs()
    for title in ("Remove zombie KubernetesPodOperator pods", "How to read a run", "What is never touched", "Settings"):
        expect(docs.get_by_role("heading", name=title)).to_be_visible()
    expect(docs.get_by_role("listitem").filter(has_text="reap red")).to_be_visible()
    ui.screenshot("docs")
    text = docs.inner_text()
    assert not [mark for mark in ("**", "###", "`") if mark in text]


class TestTriggerForm:
    def test_lists_the_run_options_in_order_with_their_descriptions(self, ui: Ui) -> None:
        form = ui.trigger_form()
        expect(form).to_contain_text("dry_run")
        ui.screenshot("trigger-form")
        with ui.window(height=1500):
            ui.picture("trigger-form", form)
        text = form.inner_text()
        run_options = {name: option for name, option in OPTIONS.items() if is_run_param(name)}
        always_visible = [name for name, option in run_options.items() if "section" not in option.metadata]
        matches = [re.search(rf"^{name}\b", text, re.MULTILINE) for name in always_visible]
        positions = [match.start() for match in matches if match]
        assert len(positions) == len(matches)
        assert positions == sorted(positions)
        form.get_by_text(re.compile(f"^{COMPLETED_PODS}")).click()
        for name, option in run_options.items():
            expect(form).to_contain_text(name)
            expect(form).to_contain_text(option.metadata["meaning"].replace("`", ""))
        ui.screenshot("trigger-form-unfolded")
        for name in set(OPTIONS) - set(run_options):
            expect(ui.field(name)).to_have_count(0)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            pytest.param("settle_seconds", "-5", "-5 is less than the minimum of 0", id="settle_seconds is negative"),
            pytest.param("max_deletes", "0", "0 is less than the minimum of 1", id="max_deletes is zero"),
            pytest.param("namespaces", "Team_A", "'Team_A' does not match", id="namespaces contains an invalid name"),
        ],
    )
    def test_rejects_an_invalid_value_without_starting_a_run(
        self, ui: Ui, world: World, name: str, value: str, message: str
    ) -> None:
        before = world.run_ids()
        ui.trigger_form()
        error = ui.error_for(name, value)
        ui.screenshot(f"rejected-{name}")
        assert message in error
        assert world.run_ids() == before


class TestFirstRun:
    def test_triggering_the_dry_run_deletes_nothing_and_every_log_says_so(self, ui: Ui, world: World) -> None:
        before, pods = world.run_ids(), world.cluster.names()
        expect(ui.trigger_form(DRY_RUN)).to_contain_text("settle_seconds")
        expect(ui.field("dry_run")).to_have_count(0)
        ui.screenshot("trigger-form-dry-run")
        ui.field("settle_seconds").fill("0")  # otherwise `reap` is skipped until the zombies have settled
        ui.trigger()
        run_id = world.wait_for_first_run(DRY_RUN)
        for task_id in ("list_pods", "fetch_active_tis", "classify", "reap"):
            expect(ui.log(run_id, task_id, DRY_RUN)).to_contain_text("DRY RUN: nothing will be deleted")
        assert world.cluster.names() == pods
        assert world.run_ids() == before

    def test_unpausing_the_dag_deletes_the_zombies(self, ui: Ui, world: World) -> None:
        [run_id] = world.work_runs[NIGHTLY][:1]
        task = (NIGHTLY, "extract_orders", run_id)
        world.cluster.put([make_pod(*task, 5 * HOUR, namespace=PAUSED_NAMESPACE)])
        assert world.run_ids(PAUSED) == []
        ui.unpause(PAUSED)
        world.wait_for_first_run(PAUSED)
        assert not [name for name in world.cluster.names() if name.startswith(PAUSED_NAMESPACE)]


def test_a_log_starts_with_the_settings_and_their_sources(ui: Ui, world: World) -> None:
    log = ui.log(world.runs["deleted"], "list_pods")
    expect(log).to_contain_text(f"kpo_cleanup {__version__} on Airflow {AIRFLOW_VERSION}, settings on this worker:")
    expect(log).to_contain_text("settle_seconds=0 (this run's conf)")
    assert ui.find_clipped(FIRST_LINE) == (1, [])


def test_a_clipped_line_is_detected_in_a_narrow_window(ui: Ui, world: World) -> None:
    with ui.window(width=500):  # that of a phone
        expect(ui.log(world.runs["deleted"], "list_pods")).to_contain_text("settings on this worker:")
        found, clipped = ui.find_clipped(FIRST_LINE)
    assert found == len(clipped) == 1


class TestLogOfClassify:
    def test_ends_with_a_summary(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["deleted"], "classify")
        expect(log).to_contain_text("zombies by reason: superseded=1 orphaned=9")
        expect(log).to_contain_text(KEPT)
        expect(log).to_contain_text(f"{ZOMBIES} zombies of 15 pods: nightly_orders 7, ml_feature_refresh")
        ui.screenshot("log-classify")
        ui.picture("classify-log", log, first="1 superseded zombie: ")

    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param(".* try \\d of run manual__.*", id="task and run"),
            pytest.param(
                ".*(airflow|team-reporting)/.*: task instance (success|up_for_retry).*", id="pod and evidence"
            ),
            pytest.param(r"\d+ orphaned zombies?: base is still running, but its operator is gone", id="diagnosis"),
            pytest.param("advice: .*", id="advice for a diagnosis"),
            pytest.param("kept 1 stalled pod: istio-proxy keeps the task waiting", id="warning"),
            pytest.param("stop it, or mark the task as failed; .*", id="remedy of the warning"),
            pytest.param("if no other Airflow uses these namespaces, .*", id="condition of delete_unmatched_pods"),
            pytest.param(f"{ZOMBIES} zombies of 15 pods: .*", id="summary"),
        ],
    )
    def test_can_be_read_without_horizontal_scrolling(self, ui: Ui, world: World, pattern: str) -> None:
        """Check the end of the log, which is the part that Airflow 3 renders."""
        expect(ui.log(world.runs["deleted"], "classify")).to_contain_text(f"{ZOMBIES} zombies of 15 pods")
        found, clipped = ui.find_clipped(pattern)
        assert found
        assert clipped == []

    def test_links_to_the_task_instances(self, ui: Ui, world: World) -> None:
        links = ui.log(world.runs["deleted"], "classify").get_by_role("link")
        expect(links.and_(ui.page.locator(f"[href*='/dags/{NIGHTLY}/']")).first).to_be_visible()

    def test_explains_why_reap_was_skipped(self, ui: Ui, world: World) -> None:
        expect(ui.log(world.runs["skipped"], "classify")).to_contain_text("nothing to delete among 5 pods")
        ui.screenshot("log-classify-of-skipped-reap")


class TestLogOfReap:
    def test_names_the_task_of_each_deleted_pod_and_ends_with_a_summary(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["deleted"], "reap")
        expect(log).to_contain_text(f"deleted {ZOMBIES} of {ZOMBIES} zombies: nightly_orders 7")
        expect(log).to_contain_text("freed cpu=5 memory=10Gi")
        ui.screenshot("log-reap")
        found, clipped = ui.find_clipped(".*(airflow|team-reporting)/.*: task instance .*")
        assert found
        assert clipped == []

    def test_shows_what_was_forbidden_and_the_remedy_without_horizontal_scrolling(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["forbidden"], "reap")
        expect(log).to_contain_text("AirflowFailException: 2 problems; everything else was processed")
        ui.screenshot("log-reap-forbidden-end")
        ui.picture("reap-log-forbidden", log, first="Task failed with exception", lines=16)
        log.hover()
        ui.page.mouse.wheel(0, -340)  # the message is above Airflow's traceback
        ui.screenshot("log-reap-forbidden")
        for line in (
            "- listing pods in namespace 'team-reporting': 403 Forbidden",
            "allow verb 'list' on resource 'pods' in a Role .*",
            r"- 2 pods \(such as .*\) not deleted: 403 Forbidden",
            "allow verb 'delete' on resource 'pods' in a Role .*",
        ):
            found, clipped = ui.find_clipped(line)
            assert found
            assert clipped == []


def test_the_log_names_an_invalid_option_that_only_the_run_can_detect(ui: Ui, world: World) -> None:
    run_id = world.clean_up(kubernetes_conn_id="another")
    expect(ui.log(run_id, "list_pods")).to_contain_text("because it cannot be set for a single run")
    ui.screenshot("log-list_pods-rejected")


class TestXCom:
    @pytest.mark.parametrize(
        ("task_id", "summary"),
        [
            ("list_pods", "pods: 14, in: airflow"),
            ("classify", "9 zombies of 14 pods"),
            ("reap", "deleted 7 of 9 zombies"),
        ],
    )
    def test_shows_the_summary_first(self, ui: Ui, world: World, task_id: str, summary: str) -> None:
        value = ui.xcom(world.runs["forbidden"], task_id)
        _expect_in_viewport(value, summary)
        ui.screenshot(f"xcom-{task_id}")

    @pytest.mark.parametrize("task_id", ["classify", "reap"])
    def test_summary_can_be_listed_for_all_runs(self, ui: Ui, task_id: str) -> None:
        summaries = ui.summaries(task_id)
        for text in (
            (f"{ZOMBIES} of {ZOMBIES} zombies",)
            if task_id == "reap"
            else (f"{ZOMBIES} zombies of 15 pods", "nothing to delete")
        ):
            expect(summaries.get_by_text(text).first).to_be_visible()
        ui.screenshot(f"summaries-{task_id}")

    def test_of_two_thousand_pods_is_displayed(self, ui: Ui, world: World) -> None:
        pods = (
            make_pod("staging", f"task_{number % 50}", f"run_{number % 40}", number * HOUR / 60)
            for number in range(2_000)
        )
        world.cluster.put(pods)
        run_id = world.clean_up(dry_run=True)
        _expect_in_viewport(ui.xcom(run_id, "list_pods"), "pods: 20", timeout=300)  # Airflow 2 renders each row
        ui.screenshot("xcom-list_pods-of-many")


def _expect_in_viewport(value: Locator, text: str, timeout: float = 60) -> None:
    """Expect a text without scrolling; the editor of Airflow 3 shows only a few lines, with non-breaking spaces."""
    pattern = re.compile(re.escape(text).replace(r"\ ", r"\s"))
    expect(value.get_by_text(pattern).first).to_be_in_viewport(timeout=timeout * 1000)
