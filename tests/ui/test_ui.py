"""What somebody sees who looks at the cleanup in the browser: all that matters is there, and nothing is cut off."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from include.kpo_cleanup import __version__
from include.kpo_cleanup.airflow_compat import AIRFLOW_VERSION
from include.kpo_cleanup.settings import COMPLETED_PODS, OPTIONS, is_run_param
from tests.ui.leftovers import HOUR, PAUSED_NAMESPACE, make_pod
from tests.ui.pages import Ui
from tests.ui.world import SCHEDULE, World

pytestmark = [pytest.mark.ui, pytest.mark.timeout(900)]

expect.set_options(timeout=60_000)  # milliseconds; the machine may be busy with other tests

KEPT = "kept: owned=1 unmatched=1 stalled=1 active=1 completed=1"
ROWS = 10  # zombies
LOOK, PAUSED, NIGHTLY = "kpo_cleanup_dry_run", "kpo_cleanup_paused", "nightly_orders"
FIRST_LINE = "kpo_cleanup .* settings on this worker:.*"
OUTCOMES = {"reaped": "success", "nothing": "skipped", "forbidden": "failed"}


def test_the_list_of_dags_shows_schedule_and_tags(ui: Ui) -> None:
    page = ui.dags()
    for text in ("kpo_cleanup", SCHEDULE, "kubernetes", "maintenance"):
        expect(page).to_contain_text(text)
    ui.shoot("dags")


def test_the_page_of_the_dag_shows_its_schedule_and_tasks(ui: Ui) -> None:
    page = ui.dag()
    for text in (SCHEDULE, "list_pods", "fetch_active_tis", "classify", "reap"):
        expect(page).to_contain_text(text)
    ui.shoot("grid")


@pytest.mark.parametrize(("run", "state"), OUTCOMES.items(), ids=OUTCOMES)
def test_the_graph_tells_the_outcome_of_a_run(ui: Ui, world: World, run: str, state: str) -> None:
    nodes = ui.graph(world.runs[run])
    expect(nodes.filter(has_text="reap")).to_contain_text(state)
    expect(nodes.filter(has_text="success")).to_have_count(4 if state == "success" else 3)
    expect(ui.edges()).to_have_count(3)
    ui.shoot(f"graph-{run}")


def test_the_documentation_is_rendered(ui: Ui) -> None:
    docs = ui.docs()
    for title in ("Remove zombie KubernetesPodOperator pods", "How to read a run", "What is never touched", "Settings"):
        expect(docs.get_by_role("heading", name=title)).to_be_visible()
    expect(docs.get_by_role("listitem").filter(has_text="reap red")).to_be_visible()
    ui.shoot("docs")
    text = docs.inner_text()
    assert not [mark for mark in ("**", "###", "`") if mark in text]


class TestTriggerForm:
    def test_has_the_options_in_their_order_each_with_its_description(self, ui: Ui) -> None:
        form = ui.trigger_form()
        expect(form).to_contain_text("dry_run")
        ui.shoot("trigger-form")
        text = form.inner_text()
        for_a_run = {name: option for name, option in OPTIONS.items() if is_run_param(name)}
        unfolded = [name for name, option in for_a_run.items() if "section" not in option.metadata]
        places = [re.search(rf"^{name}\b", text, re.MULTILINE) for name in unfolded]
        starts = [place.start() for place in places if place]
        assert len(starts) == len(places)
        assert starts == sorted(starts)
        form.get_by_text(re.compile(f"^{COMPLETED_PODS}")).click()
        for name, option in for_a_run.items():
            expect(form).to_contain_text(name)
            expect(form).to_contain_text(option.metadata["meaning"].replace("`", ""))
        ui.shoot("trigger-form-unfolded")
        for name in set(OPTIONS) - set(for_a_run):
            expect(ui.field(name)).to_have_count(0)

    @pytest.mark.parametrize(
        ("name", "value", "refusal"),
        [
            ("settle_seconds", "-5", "-5 is less than the minimum of 0"),
            ("max_deletes", "0", "0 is less than the minimum of 1"),
            ("namespaces", "Team_A", "'Team_A' does not match"),
        ],
    )
    def test_refuses_what_the_run_would_and_starts_none(
        self, ui: Ui, world: World, name: str, value: str, refusal: str
    ) -> None:
        before = world.run_ids()
        ui.trigger_form()
        said = ui.refusal(name, value)
        ui.shoot(f"refused-{name}")
        assert refusal in said
        assert world.run_ids() == before


class TestFirstRun:
    def test_the_look_says_so_and_deletes_nothing(self, ui: Ui, world: World) -> None:
        before, pods = world.run_ids(), world.cluster.names()
        expect(ui.trigger_form(LOOK)).to_contain_text("settle_seconds")
        expect(ui.field("dry_run")).to_have_count(0)
        ui.shoot("trigger-form-dry-run")
        ui.trigger()
        world.terminal.wait_for("a run starts", lambda: world.run_ids(LOOK), 60)
        [run_id] = world.run_ids(LOOK)
        world.wait("the dry run is over", LOOK, run_id)
        for task_id in ("list_pods", "fetch_active_tis", "classify", "reap"):
            expect(ui.log(run_id, task_id, LOOK)).to_contain_text("DRY RUN: nothing will be deleted")
        assert world.cluster.names() == pods
        assert world.run_ids() == before

    def test_the_switch_deletes_the_zombies(self, ui: Ui, world: World) -> None:
        [run_id] = world.work[NIGHTLY][:1]
        task = (NIGHTLY, "extract_orders", run_id)
        world.cluster.put([make_pod(*task, 5 * HOUR, namespace=PAUSED_NAMESPACE)])
        assert world.run_ids(PAUSED) == []
        ui.unpause(PAUSED)
        world.terminal.wait_for("a run starts", lambda: bool(world.run_ids(PAUSED)), 60)
        [run_id] = world.run_ids(PAUSED)
        world.wait("the first run is over", PAUSED, run_id)
        assert not [name for name in world.cluster.names() if name.startswith(PAUSED_NAMESPACE)]


def test_the_first_lines_of_a_log_say_what_holds_and_where_it_comes_from(ui: Ui, world: World) -> None:
    log = ui.log(world.runs["reaped"], "list_pods")
    expect(log).to_contain_text(f"kpo_cleanup {__version__} on Airflow {AIRFLOW_VERSION}, settings on this worker:")
    expect(log).to_contain_text("settle_seconds=0 (this run's conf)")
    assert ui.cut_off(FIRST_LINE) == (1, [])


def test_what_is_cut_off_would_be_noticed(ui: Ui, world: World) -> None:
    with ui.narrow():
        expect(ui.log(world.runs["reaped"], "list_pods")).to_contain_text("settings on this worker:")
        found, cut = ui.cut_off(FIRST_LINE)
    assert found == len(cut) == 1


class TestLogOfClassify:
    def test_ends_with_a_summary(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["reaped"], "classify")
        expect(log).to_contain_text("zombies by reason: superseded=1 orphaned=9")
        expect(log).to_contain_text(KEPT)
        expect(log).to_contain_text(f"{ROWS} zombies of 15 pods: nightly_orders 7, ml_feature_refresh")
        ui.shoot("log-classify")

    @pytest.mark.parametrize(
        "pattern",
        [
            pytest.param(r"\d+ (h|min|d), (orphaned|superseded): .* try \d.*", id="zombie and its task"),
            pytest.param("of run manual__.*", id="its run"),
            pytest.param("pod (airflow|team-reporting)/.*", id="its pod"),
            pytest.param("task instance (success|up_for_retry).*", id="evidence"),
            pytest.param(r"\d+ zombies: base works on, but its operator is gone", id="cause"),
            pytest.param("advice: .*", id="advice for a cause"),
            pytest.param("kept 1 stalled pod: container istio-proxy keeps its task waiting", id="warning"),
            pytest.param("make istio-proxy a native sidecar, .*", id="remedy of the warning"),
            pytest.param("if no other Airflow uses these namespaces: .*", id="condition of delete_unmatched_pods"),
            pytest.param(f"{ROWS} zombies of 15 pods: .*", id="summary"),
        ],
    )
    def test_shows_each_line_to_its_end(self, ui: Ui, world: World, pattern: str) -> None:
        """Look at the end of the log, which is the part that Airflow 3 has in the page."""
        expect(ui.log(world.runs["reaped"], "classify")).to_contain_text(f"{ROWS} zombies of 15 pods")
        found, cut = ui.cut_off(pattern)
        assert found
        assert cut == []


class TestLogOfReap:
    def test_says_whose_each_pod_was_and_ends_with_a_summary(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["reaped"], "reap")
        expect(log).to_contain_text(f"deleted {ROWS} of {ROWS} zombies: nightly_orders 7")
        expect(log).to_contain_text("freed cpu=5 memory=10Gi")
        ui.shoot("log-reap")
        found, cut = ui.cut_off("deleted (airflow|team-reporting)/.*")
        assert found
        assert cut == []

    def test_says_why_there_was_nothing_to_do(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["nothing"], "reap")
        expect(log).to_contain_text("Nothing to reap: nothing to delete among 5 pods")
        ui.shoot("log-reap-skipped")
        found, cut = ui.cut_off("Nothing to reap: .*")
        assert found
        assert cut == []

    def test_says_what_was_forbidden_and_the_remedy_without_scrolling(self, ui: Ui, world: World) -> None:
        log = ui.log(world.runs["forbidden"], "reap")
        expect(log).to_contain_text("AirflowFailException: 2 problems; all else was done")
        ui.shoot("log-reap-forbidden-end")
        log.hover()
        ui.page.mouse.wheel(0, -340)  # the plain lines stand above Airflow's traceback
        ui.shoot("log-reap-forbidden")
        for line in (
            "- listing pods in namespace 'team-reporting': 403 Forbidden",
            "allow verb 'list' on resource 'pods' in a Role .*",
            "- 2 pods not deleted: deleting the pod: 403 Forbidden",
            "allow verb 'delete' on resource 'pods' in a Role .*",
        ):
            found, cut = ui.cut_off(line)
            assert found  # more than once: plainly, and in what Airflow says of the exception
            assert cut == []


def test_a_value_that_only_the_run_can_refuse_is_named_in_its_log(ui: Ui, world: World) -> None:
    run_id = world.clean_up(kubernetes_conn_id="another")
    expect(ui.log(run_id, "list_pods")).to_contain_text("it is decided for a deployment, not a run")
    ui.shoot("log-list_pods-refused")


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
        _expect_in_view(value, summary)
        ui.shoot(f"xcom-{task_id}")

    @pytest.mark.parametrize("task_id", ["classify", "reap"])
    def test_lists_a_line_for_each_run(self, ui: Ui, task_id: str) -> None:
        summaries = ui.summaries(task_id)
        for text in (
            f"{ROWS} of {ROWS} zombies" if task_id == "reap" else f"{ROWS} zombies of 15 pods",
            "nothing to delete",
        ):
            expect(summaries.get_by_text(text).first).to_be_visible()
        ui.shoot(f"summaries-{task_id}")

    def test_of_two_thousand_pods_does_not_choke_the_page(self, ui: Ui, world: World) -> None:
        pods = (
            make_pod("staging", f"task_{number % 50}", f"run_{number % 40}", number * HOUR / 60)
            for number in range(2_000)
        )
        world.cluster.put(pods)
        run_id = world.clean_up(dry_run=True)
        _expect_in_view(ui.xcom(run_id, "list_pods"), "pods: 20", seconds=300)  # Airflow 2 draws each row
        ui.shoot("xcom-list_pods-of-many")


def _expect_in_view(value: Locator, text: str, seconds: float = 60) -> None:
    """Without scrolling; the editor of Airflow 3 shows no more than a few lines, with spaces of its own."""
    pattern = re.compile(re.escape(text).replace(r"\ ", r"\s"))
    expect(value.get_by_text(pattern).first).to_be_in_viewport(timeout=seconds * 1000)
