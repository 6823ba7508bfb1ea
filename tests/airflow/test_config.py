"""The origins of settings: their order, and the errors for values that are not allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.configuration import conf

from include.kpo_cleanup.config import DAG_FILE, DAG_PARAMS, RUN_CONF, Reading, read_settings
from include.kpo_cleanup.errors import SettingsError
from include.kpo_cleanup.settings import OPTIONS, Settings, is_run_param

PREFIX = "AIRFLOW__KPO_CLEANUP__"
FILE = "section kpo_cleanup of Airflow's config file"
OPTIONS_ARE = f"the options are {', '.join(OPTIONS)}"
CRON = "give a cron expression of five fields such as */15 * * * *, a preset such as @hourly, or None"
NAMES = "give names of lower-case letters, digits and dashes, such as airflow,team-a; or * alone for all"


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def config_file() -> Iterator[None]:
    """Write a section as airflow.cfg has it."""
    conf.read_dict({"kpo_cleanup": {"settle_seconds": "60", "namespaces": "a,b"}})
    yield
    conf.remove_section("kpo_cleanup")


def changed(reading: Reading) -> dict[str, tuple[Any, str]]:
    """List the values that are not the built-in ones, each with its origin."""
    assert reading.faults == []
    names = {name for name in OPTIONS if reading.values[name] != OPTIONS[name].default}
    assert names == set(reading.origins)
    return {name: (reading.values[name], reading.origins[name]) for name in names}


def faults(reading: Reading) -> list[str]:
    """List the faults, one a line."""
    return [str(fault).replace("\n ", "") for fault in reading.faults]


class TestWhatHolds:
    def test_is_the_default_where_nothing_is_set(self) -> None:
        assert read_settings({}).checked() == Settings()
        assert changed(read_settings({})) == {}

    def test_is_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "@hourly")
        assert changed(read_settings({})) == {
            "dry_run": (True, PREFIX + "DRY_RUN"),
            "schedule": ("@hourly", PREFIX + "SCHEDULE"),
        }

    @pytest.mark.usefixtures("config_file")
    def test_is_the_environment_before_the_config_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "90")
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        assert changed(read_settings({})) == {
            "settle_seconds": (90, PREFIX + "SETTLE_SECONDS"),
            "namespaces": ("a,b", FILE),
            "dry_run": (True, PREFIX + "DRY_RUN"),
        }

    def test_is_an_empty_value_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", "")
        assert changed(read_settings({})) == {"schedule": (None, PREFIX + "SCHEDULE")}

    @pytest.mark.parametrize(
        ("option", "airflows", "value"),
        [
            ("delete_completed_pods", "delete_worker_pods", False),
            ("delete_pods_on_failure", "delete_worker_pods_on_failure", True),
        ],
    )
    def test_follows_airflows_own_options_for_completed_pods_until_it_is_set(
        self, option: str, airflows: str, value: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{airflows.upper()}", str(value))
        assert changed(read_settings({})) == {option: (value, f"Airflow's kubernetes_executor.{airflows}")}
        monkeypatch.setenv(PREFIX + option.upper(), str(not value))
        assert read_settings({}).checked() == Settings()

    @pytest.mark.usefixtures("config_file")
    def test_is_the_dag_file_before_the_config(self) -> None:
        reading = read_settings({"namespaces": "ml", "kubernetes_conn_id": "gpu"})
        assert changed(reading) == {
            "namespaces": ("ml", DAG_FILE),
            "kubernetes_conn_id": ("gpu", DAG_FILE),
            "settle_seconds": (60, FILE),
        }

    @pytest.mark.usefixtures("config_file")
    def test_is_the_conf_before_the_params_before_the_config(self) -> None:
        reading = read_settings({}, {"settle_seconds": 70, "max_deletes": 7}, {"settle_seconds": 80})
        assert changed(reading) == {
            "settle_seconds": (80, RUN_CONF),
            "max_deletes": (7, DAG_PARAMS),
            "namespaces": ("a,b", FILE),
        }

    def test_is_said_by_the_conf_even_where_it_is_not_among_the_params(self) -> None:
        assert read_settings({}, {"dry_run": False}, {"dry_run": True}).checked().dry_run

    @pytest.mark.usefixtures("config_file")
    def test_does_not_come_from_a_trigger_form_that_only_repeats_it(self) -> None:
        form = {name: value for name, value in read_settings({}).values.items() if is_run_param(name)}
        assert changed(read_settings({}, form, form)) == {"settle_seconds": (60, FILE), "namespaces": ("a,b", FILE)}


class TestWhatIsFixed:
    @pytest.mark.parametrize("value", [True, "true", "1"])
    def test_may_be_said_again(self, value: Any) -> None:
        assert read_settings({"dry_run": True}, {}, {"dry_run": value}).checked().dry_run

    @pytest.mark.parametrize(
        ("params", "run_conf", "origin"),
        [({}, {"dry_run": False}, RUN_CONF), ({"dry_run": False}, {}, DAG_PARAMS)],
        ids=["conf", "params"],
    )
    def test_cannot_be_changed(self, params: dict[str, Any], run_conf: dict[str, Any], origin: str) -> None:
        reading = read_settings({"dry_run": True}, params, run_conf)
        assert faults(reading) == [f"dry_run=False ({origin}): this DAG's file fixes True; leave it out"]
        assert reading.settings.dry_run

    @pytest.mark.parametrize("name", [name for name in OPTIONS if not is_run_param(name)])
    @pytest.mark.parametrize("fixed", [{}, {"kubernetes_conn_id": "gpu"}], ids=["nothing fixed", "one fixed"])
    def test_nor_can_what_is_decided_for_a_deployment(self, name: str, fixed: dict[str, Any]) -> None:
        value = OPTIONS[name].default
        assert faults(read_settings(fixed, {}, {name: value})) == [
            f"{name}={value!r} ({RUN_CONF}): it is decided for a deployment, not a run; "
            f"set {PREFIX}{name.upper()}, or fix it in a DAG file"
        ]


IN_THE_ENVIRONMENT = [
    ("AIRFLOW__KPO_CLEANUP__DRY_RUN=yes", "dry_run='yes' ({}): give True or False"),
    ("AIRFLOW__KPO_CLEANUP__MAX_DELETES=many", "max_deletes='many' ({}): give a whole number from 1 to 100000"),
    ("AIRFLOW__KPO_CLEANUP__NAMESPACES=Team_A", f"namespaces='Team_A' ({{}}): {NAMES}"),
    *[
        (f"AIRFLOW__KPO_CLEANUP__SCHEDULE={text}", f"schedule={text!r} ({{}}): {CRON}")
        for text in ("@sometimes", "*/15 * * *", "0 0 31 2 *", "every hour", "61 * * * *")
    ],
]
LOOK_ALIKES = {
    "AIRFLOW__KPO_CLEANUP_DRY_RUN": "DRY_RUN",
    "AIRFLOW__KPOCLEANUP__DRY_RUN": "DRY_RUN",
    "AIRFLOW_KPO_CLEANUP__DRY_RUN": "DRY_RUN",
    "AIRFLOW__kpo_cleanup__dry_run": "DRY_RUN",
    "AIRFLOW__KPO_CLEANUP__DRYRUN": "DRY_RUN",
    "AIRFLOW__KPO_CLEANUP__DRY_RUNS": "DRY_RUN",
    "AIRFLOW__KPO_CLEANUP__DRY-RUN": "DRY_RUN",
    "AIRFLOW__KPO_CLEANUP__NAMESPACE": "NAMESPACES",
    "AIRFLOW__KPO_CLEANUP__METADATA_CONN_ID": "AIRFLOW_CONN_ID",
    "AIRFLOW__KPO_CLEANUP__DELETE_UNKNOWN_PODS": "DELETE_UNMATCHED_PODS",
}


class TestFaults:
    @pytest.mark.parametrize(("variable", "fault"), IN_THE_ENVIRONMENT)
    def test_name_option_value_origin_and_remedy(
        self, variable: str, fault: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name, _, value = variable.partition("=")
        monkeypatch.setenv(name, value)
        assert faults(read_settings({})) == [fault.format(name)]

    @pytest.mark.parametrize(
        "name",
        [
            "AIRFLOW_KPO_CLEANUP_SERVICE_HOST",
            "AIRFLOW_KPO_CLEANUP_SERVICE_PORT",
            "AIRFLOW_KPO_CLEANUP_SERVICE_PORT_HTTP",
            "AIRFLOW_KPO_CLEANUP_PORT",
            "AIRFLOW_KPO_CLEANUP_PORT_8080_TCP_ADDR",
        ],
    )
    def test_of_a_kubernetes_service_is_no_setting(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "10.0.0.1")
        assert read_settings({}).faults == []

    @pytest.mark.parametrize(("name", "meant"), LOOK_ALIKES.items())
    def test_are_variables_that_look_like_ours_and_are_not(
        self, name: str, meant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "True")
        assert faults(read_settings({})) == [
            f"{name}='True' (the environment): Airflow does not read this; did you mean {PREFIX}{meant}?"
        ]

    @pytest.mark.parametrize("suffix", ["_CMD", "_SECRET"])
    def test_are_options_that_are_given_indirectly(self, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(f"{PREFIX}DRY_RUN{suffix}", "echo True")
        assert faults(read_settings({})) == [
            f"{PREFIX}DRY_RUN{suffix}='echo True' (the environment): Airflow follows _CMD and _SECRET for options of "
            f"its own only; set {PREFIX}DRY_RUN"
        ]

    @pytest.mark.parametrize("name", ["AIRFLOW_CONN_KPO_CLEANUP", "AIRFLOW_VAR_KPO_CLEANUP__DRY_RUN", "KPO_CLEANUP"])
    def test_are_not_what_only_has_our_name_in_it(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "x")
        assert read_settings({}).checked() == Settings()

    @pytest.mark.usefixtures("config_file")
    @pytest.mark.parametrize(
        ("option", "value", "fault"),
        [
            ("dryrun", "True", f"dryrun='True' ({FILE}): there is no such option; did you mean dry_run?"),
            ("xyz", "1", f"xyz='1' ({FILE}): there is no such option; {OPTIONS_ARE}"),
            ("delete_unknown_pods", "t", f"delete_unknown_pods='t' ({FILE}): its name is delete_unmatched_pods now"),
            ("metadata_conn_id", "db", f"metadata_conn_id='db' ({FILE}): its name is airflow_conn_id now"),
            (
                "dry_run_cmd",
                "echo True",
                f"dry_run_cmd='echo True' ({FILE}): there is no such option; did you mean dry_run?",
            ),
            ("max_deletes", "0", f"max_deletes='0' ({FILE}): give a whole number from 1 to 100000"),
        ],
    )
    def test_are_found_in_the_config_file(self, option: str, value: str, fault: str) -> None:
        conf.read_dict({"kpo_cleanup": {option: value}})
        assert faults(read_settings({})) == [fault]

    @pytest.mark.usefixtures("config_file")
    def test_are_values_that_the_config_file_cannot_hold(self) -> None:
        conf.read_string("[kpo_cleanup]\nlabel_selector = 5%\n")
        (fault,) = faults(read_settings({}))
        assert fault.startswith(f"label_selector='5%' ({FILE}): it cannot be read ('%' must be followed by '%' or '('")
        assert fault.endswith("write %% for %")

    @pytest.mark.parametrize(
        ("fixed", "params", "run_conf", "fault"),
        [
            ({"dryrun": True}, {}, {}, f"dryrun=True ({DAG_FILE}): there is no such option; did you mean dry_run?"),
            ({"schedule": "@sometimes"}, {}, {}, f"schedule='@sometimes' ({DAG_FILE}): {CRON}"),
            ({10: True}, {}, {}, f"10=True ({DAG_FILE}): there is no such option; {OPTIONS_ARE}"),
            (
                {},
                {"namespace": "a"},
                {},
                f"namespace='a' ({DAG_PARAMS}): there is no such option; did you mean namespaces?",
            ),
            ({}, {}, {"dry-run": True}, f"dry-run=True ({RUN_CONF}): there is no such option; did you mean dry_run?"),
            (
                {},
                {"settle_seconds": "soon"},
                {"settle_seconds": "soon"},
                f"settle_seconds='soon' ({RUN_CONF}): give a whole number from 0 to 31536000",
            ),
        ],
        ids=["DAG file", "its schedule", "a key that is no text", "params", "conf", "conf that is in the params, too"],
    )
    def test_are_found_in_what_a_dag_and_a_run_give(
        self, fixed: dict[str, Any], params: dict[str, Any], run_conf: dict[str, Any], fault: str
    ) -> None:
        assert faults(read_settings(fixed, params, run_conf)) == [fault]

    def test_are_namespaces_that_are_named_and_excluded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "EXCLUDE_NAMESPACES", "kube-system,ml")
        assert read_settings({}, {}, {"namespaces": "*"}).checked().excluded() == ["kube-system", "ml"]
        assert faults(read_settings({}, {}, {"namespaces": "a,ml"})) == [
            f"namespaces='a,ml' ({RUN_CONF}): leave out ml, for exclude_namespaces has it, too"
        ]

    def test_are_a_bad_value_that_another_one_hides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "maybe")
        assert len(faults(read_settings({}, {}, {"dry_run": True}))) == 1

    def test_are_all_in_one_message_without_markup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "yes")
        monkeypatch.setenv("AIRFLOW__KPOCLEANUP__DRY_RUN", "True")
        with pytest.raises(SettingsError) as caught:
            read_settings({"max_deletes": 0}, {}, {"namespaces": "A"}).checked()
        message = str(caught.value)
        assert message.splitlines()[0] == "4 settings are not allowed; nothing was touched"
        names = ["AIRFLOW__KPOCLEANUP__DRY_RUN", "dry_run", "max_deletes", "namespaces"]
        assert re.findall(r"^- (\w+)=", message, re.MULTILINE) == names
        assert "[" not in message

    def test_leave_the_other_values_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "yes")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "None")
        assert read_settings({}).settings == Settings(schedule=None)


class TestLog:
    def test_says_what_was_changed_first_each_with_its_origin_and_then_the_rest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "NAMESPACES", "a")
        lines = read_settings({"max_deletes": 5}, {}, {"dry_run": True}).describe("1.2.3")
        text = " ".join(" ".join(lines).split())
        first, _, default = text.partition(" by default: ")
        assert re.match(r"kpo_cleanup 1\.2\.3 on Airflow \d\S+, settings on this worker: ", first)
        assert first.endswith(
            f"dry_run=True (this run's conf) namespaces='a' ({PREFIX}NAMESPACES) max_deletes=5 (the DAG file)"
        )
        words = ("dry_run", "namespaces", "max_deletes", "schedule")  # the worker does not decide the schedule
        assert default == " ".join(f"{name}={getattr(Settings(), name)!r}" for name in OPTIONS if name not in words)
        assert all(len(line) <= 100 for line in lines)

    def test_says_that_nothing_was_changed(self) -> None:
        assert read_settings({}).describe("1.2.3")[0].endswith("settings on this worker: none changed")
