"""The origins of settings: their precedence, and the errors for values that are rejected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.configuration import conf

from include.kpo_cleanup.config import DAG_FILE, DAG_PARAMS, RUN_CONF, ResolvedSettings, read_settings
from include.kpo_cleanup.errors import HIDDEN, SettingError, SettingsError
from include.kpo_cleanup.settings import OPTIONS, Settings, is_run_param

PREFIX = "AIRFLOW__KPO_CLEANUP__"
FILE = "section kpo_cleanup of Airflow's config file"
NO_SUCH_OPTION = f"no such option: the options are {', '.join(OPTIONS)}"
MEANT_DRY_RUN = "no such option: did you mean dry_run?"
CRON = "set it to a cron expression of five fields such as */15 * * * *, a preset such as @hourly, or None"
NAMES = "set it to names of lowercase letters, digits and dashes, such as airflow,team-a, or * for all namespaces"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def config_file() -> Iterator[None]:
    """Add a section to the config, as from airflow.cfg."""
    conf.read_dict({"kpo_cleanup": {"settle_seconds": "60", "namespaces": "a,b"}})
    yield
    conf.remove_section("kpo_cleanup")


def changed(resolved: ResolvedSettings) -> dict[str, tuple[Any, str]]:
    """Return the values that are not defaults, each with its origin."""
    assert resolved.errors == []
    names = {name for name in OPTIONS if resolved.values[name] != OPTIONS[name].default}
    assert names == set(resolved.origins)
    return {name: (resolved.values[name], resolved.origins[name]) for name in names}


class TestPrecedence:
    def test_the_defaults_apply_if_nothing_is_set(self) -> None:
        assert read_settings({}).validated() == Settings()
        assert changed(read_settings({})) == {}

    def test_the_environment_replaces_the_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "@hourly")
        assert changed(read_settings({})) == {
            "dry_run": (True, PREFIX + "DRY_RUN"),
            "schedule": ("@hourly", PREFIX + "SCHEDULE"),
        }

    @pytest.mark.usefixtures("config_file")
    def test_the_environment_takes_precedence_over_the_config_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "90")
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        assert changed(read_settings({})) == {
            "settle_seconds": (90, PREFIX + "SETTLE_SECONDS"),
            "namespaces": ("a,b", FILE),
            "dry_run": (True, PREFIX + "DRY_RUN"),
        }

    def test_an_empty_variable_replaces_a_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", "")
        assert changed(read_settings({})) == {"schedule": (None, PREFIX + "SCHEDULE")}

    @pytest.mark.parametrize(
        ("option", "followed", "value"),
        [
            ("delete_completed_pods", "delete_worker_pods", False),
            ("delete_pods_on_failure", "delete_worker_pods_on_failure", True),
        ],
    )
    def test_an_option_for_completed_pods_follows_airflows_own_until_it_is_set(
        self, option: str, followed: str, value: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"AIRFLOW__KUBERNETES_EXECUTOR__{followed.upper()}", str(value))
        assert changed(read_settings({})) == {option: (value, f"Airflow's kubernetes_executor.{followed}")}
        monkeypatch.setenv(PREFIX + option.upper(), str(not value))
        assert read_settings({}).validated() == Settings()

    @pytest.mark.usefixtures("config_file")
    def test_the_dag_file_takes_precedence_over_the_config(self) -> None:
        assert changed(read_settings({"namespaces": "ml", "kubernetes_conn_id": "gpu"})) == {
            "namespaces": ("ml", DAG_FILE),
            "kubernetes_conn_id": ("gpu", DAG_FILE),
            "settle_seconds": (60, FILE),
        }

    @pytest.mark.usefixtures("config_file")
    def test_the_conf_takes_precedence_over_the_params_and_the_params_over_the_config(self) -> None:
        assert changed(read_settings({}, {"settle_seconds": 70, "max_deletes": 7}, {"settle_seconds": 80})) == {
            "settle_seconds": (80, RUN_CONF),
            "max_deletes": (7, DAG_PARAMS),
            "namespaces": ("a,b", FILE),
        }

    def test_the_conf_applies_if_airflow_does_not_merge_it_into_the_params(self) -> None:
        assert read_settings({}, {"dry_run": False}, {"dry_run": True}).validated().dry_run

    @pytest.mark.usefixtures("config_file")
    def test_a_trigger_form_that_repeats_a_value_does_not_become_its_origin(self) -> None:
        form = {name: value for name, value in read_settings({}).values.items() if is_run_param(name)}
        assert changed(read_settings({}, form, form)) == {"settle_seconds": (60, FILE), "namespaces": ("a,b", FILE)}


class TestFixedOptions:
    @pytest.mark.parametrize("value", [True, "true", "1"])
    def test_a_run_may_repeat_a_fixed_value(self, value: Any) -> None:
        assert read_settings({"dry_run": True}, {}, {"dry_run": value}).validated().dry_run

    @pytest.mark.parametrize(
        ("params", "run_conf", "origin"),
        [({}, {"dry_run": False}, RUN_CONF), ({"dry_run": False}, {}, DAG_PARAMS)],
        ids=["the conf differs", "the params differ"],
    )
    def test_a_fixed_value_cannot_be_changed_and_stays_in_effect_if(
        self, params: dict[str, Any], run_conf: dict[str, Any], origin: str
    ) -> None:
        resolved = read_settings({"dry_run": True}, params, run_conf)
        remedy = "remove it, because this DAG's file fixes it to True"
        assert resolved.errors == [SettingError("dry_run", False, origin, remedy)]
        assert resolved.settings.dry_run

    @pytest.mark.parametrize("name", [name for name in OPTIONS if not is_run_param(name)])
    @pytest.mark.parametrize("fixed", [{}, {"kubernetes_conn_id": "gpu"}], ids=["nothing is fixed", "one is fixed"])
    def test_an_option_of_the_deployment_cannot_be_set_for_a_run(self, name: str, fixed: dict[str, Any]) -> None:
        value = OPTIONS[name].default
        remedy = f"set {PREFIX}{name.upper()} or fix it in a DAG file, because it cannot be set for a single run"
        assert read_settings(fixed, {}, {name: value}).errors == [SettingError(name, value, RUN_CONF, remedy)]


INVALID_VARIABLES = [
    ("dry_run", "yes", "set it to True or False"),
    ("max_deletes", "many", "set it to a whole number from 1 to 100000"),
    ("namespaces", "Team_A", NAMES),
    *[("schedule", text, CRON) for text in ("@sometimes", "*/15 * * *", "0 0 31 2 *", "every hour", "61 * * * *")],
]
SIMILAR_VARIABLES = {
    "AIRFLOW__KPO_CLEANUP_DRY_RUN": "DRY_RUN",
    "AIRFLOW__KPOCLEANUP__DRY_RUN": "DRY_RUN",
    "AIRFLOW_KPO_CLEANUP__DRY_RUN": "DRY_RUN",
    "AIRFLOW__kpo_cleanup__dry_run": "DRY_RUN",
    "AIRFLOW__KPO_CLEANUP_METADATA_CONN_ID": "AIRFLOW_CONN_ID",
}
UNKNOWN_VARIABLES = {
    "MAX_DELETE": "no such option: did you mean max_deletes?",
    "DRYRUN": MEANT_DRY_RUN,
    "DRY_RUNS": MEANT_DRY_RUN,
    "DRY-RUN": MEANT_DRY_RUN,
    "NAMESPACE": "no such option: did you mean namespaces?",
    "XYZ": NO_SUCH_OPTION,
    "METADATA_CONN_ID": "it was renamed to airflow_conn_id",
    "DELETE_UNKNOWN_PODS": "it was renamed to delete_unmatched_pods",
}


class TestErrors:
    @pytest.mark.parametrize(("name", "value", "remedy"), INVALID_VARIABLES)
    def test_an_invalid_variable_is_an_error_with_option_value_origin_and_remedy(
        self, name: str, value: str, remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        variable = PREFIX + name.upper()
        monkeypatch.setenv(variable, value)
        assert read_settings({}).errors == [SettingError(name, value, variable, remedy)]

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
    def test_a_variable_of_a_kubernetes_service_is_not_a_setting(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "10.0.0.1")
        assert read_settings({}).errors == []

    @pytest.mark.parametrize(("name", "meant"), SIMILAR_VARIABLES.items())
    def test_a_variable_that_resembles_one_of_an_option_is_an_error(
        self, name: str, meant: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "True")
        remedy = f"Airflow ignores this variable: did you mean {PREFIX}{meant}?"
        assert read_settings({}).errors == [SettingError(name, HIDDEN, "the environment", remedy)]

    @pytest.mark.parametrize(("name", "remedy"), UNKNOWN_VARIABLES.items())
    def test_a_variable_of_the_section_that_is_not_an_option_is_an_error(
        self, name: str, remedy: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + name, "True")
        assert read_settings({}).errors == [SettingError(PREFIX + name, HIDDEN, "the environment", remedy)]

    @pytest.mark.parametrize("name", ["AIRFLOW_KPO_CLEANUP_DB_PASSWORD", "AIRFLOW__KPO_CLEANUP__PASSWORD_CMD"])
    def test_the_value_of_what_is_not_an_option_is_never_shown(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "canary-7f3a")
        resolved = read_settings({"passwd": "canary-7f3a"}, {"api_token": "canary-7f3a"}, {"secret": "canary-7f3a"})
        with pytest.raises(SettingsError) as raised:
            resolved.validated()
        texts = [str(raised.value), repr(raised.value), *map(str, raised.value.errors), *map(repr, raised.value.errors)]
        assert name in str(raised.value)
        assert all("canary" not in text for text in texts)

    @pytest.mark.parametrize("suffix", ["_CMD", "_SECRET"])
    def test_a_variable_for_a_command_or_secret_is_an_error(self, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
        name = f"{PREFIX}DRY_RUN{suffix}"
        monkeypatch.setenv(name, "echo True")
        remedy = f"set {PREFIX}DRY_RUN, because Airflow supports _CMD and _SECRET for its own options only"
        assert read_settings({}).errors == [SettingError(name, HIDDEN, "the environment", remedy)]

    @pytest.mark.parametrize("name", ["AIRFLOW_CONN_KPO_CLEANUP", "AIRFLOW_VAR_KPO_CLEANUP__DRY_RUN", "KPO_CLEANUP"])
    def test_a_variable_that_only_contains_our_name_is_ignored(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, "x")
        assert read_settings({}).validated() == Settings()

    @pytest.mark.usefixtures("config_file")
    @pytest.mark.parametrize(
        ("option", "value", "remedy"),
        [
            ("dryrun", "True", MEANT_DRY_RUN),
            ("xyz", "1", NO_SUCH_OPTION),
            ("delete_unknown_pods", "t", "it was renamed to delete_unmatched_pods"),
            ("metadata_conn_id", "db", "it was renamed to airflow_conn_id"),
            ("dry_run_cmd", "echo True", MEANT_DRY_RUN),
            ("max_deletes", "0", "set it to a whole number from 1 to 100000"),
        ],
    )
    def test_an_invalid_option_in_the_config_file_is_an_error(self, option: str, value: str, remedy: str) -> None:
        conf.read_dict({"kpo_cleanup": {option: value}})
        assert read_settings({}).errors == [SettingError(option, value if option in OPTIONS else HIDDEN, FILE, remedy)]

    @pytest.mark.usefixtures("config_file")
    def test_a_value_that_the_config_parser_cannot_read_is_an_error(self) -> None:
        conf.read_string("[kpo_cleanup]\nlabel_selector = 5%\n")
        (error,) = read_settings({}).errors
        assert (error.option, error.value, error.origin) == ("label_selector", "5%", FILE)
        assert error.remedy.startswith("write %% for % (it cannot be read: '%' must be followed by '%' or '('")

    @pytest.mark.usefixtures("config_file")
    @pytest.mark.parametrize("value", ["canary-7f3a%", "canary-7f3a%(x)s"])
    def test_a_value_of_something_else_that_the_config_parser_cannot_read_is_hidden(self, value: str) -> None:
        conf.read_string(f"[kpo_cleanup]\napi_token = {value}\n")
        errors = read_settings({}).errors
        assert [error.option for error in errors] == ["api_token"]
        assert "canary" not in str(errors)

    @pytest.mark.parametrize(
        ("fixed", "params", "run_conf", "error"),
        [
            ({"dryrun": True}, {}, {}, SettingError("dryrun", HIDDEN, DAG_FILE, MEANT_DRY_RUN)),
            ({"schedule": "@sometimes"}, {}, {}, SettingError("schedule", "@sometimes", DAG_FILE, CRON)),
            ({10: True}, {}, {}, SettingError(10, HIDDEN, DAG_FILE, NO_SUCH_OPTION)),  # type: ignore[arg-type]
            (
                {},
                {"namespace": "a"},
                {},
                SettingError("namespace", HIDDEN, DAG_PARAMS, "no such option: did you mean namespaces?"),
            ),
            ({}, {}, {"dry-run": True}, SettingError("dry-run", HIDDEN, RUN_CONF, MEANT_DRY_RUN)),
            (
                {},
                {"settle_seconds": "soon"},
                {"settle_seconds": "soon"},
                SettingError("settle_seconds", "soon", RUN_CONF, "set it to a whole number from 0 to 31536000"),
            ),
        ],
        ids=[
            "the DAG file has an unknown option",
            "the DAG file has an invalid schedule",
            "the DAG file has a key that is not a string",
            "the params have an unknown option",
            "the conf has an unknown option",
            "the conf has an invalid value that is in the params as well",
        ],
    )
    def test_there_is_one_error_if(
        self, fixed: dict[str, Any], params: dict[str, Any], run_conf: dict[str, Any], error: SettingError
    ) -> None:
        assert read_settings(fixed, params, run_conf).errors == [error]

    def test_a_namespace_that_is_both_named_and_excluded_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "EXCLUDE_NAMESPACES", "kube-system,ml")
        assert read_settings({}, {}, {"namespaces": "*"}).validated().excluded() == ["kube-system", "ml"]
        assert read_settings({}, {}, {"namespaces": "a,ml"}).errors == [
            SettingError("namespaces", "a,ml", RUN_CONF, "remove ml, which exclude_namespaces excludes")
        ]

    @pytest.mark.parametrize(
        ("kinds", "origin"), [(None, None), ("pods, jobs, sparkapplications", DAG_FILE), ("pods", DAG_FILE)]
    )
    def test_kinds_that_are_set_explicitly_have_an_origin_even_if_they_are_the_default(
        self, kinds: str | None, origin: str | None
    ) -> None:
        resolved = read_settings({} if kinds is None else {"kinds": kinds})
        assert resolved.errors == []
        assert resolved.origins.get("kinds") == origin

    @pytest.mark.parametrize(("namespaces", "is_error"), [("", True), ("*", False), ("team-a", False)])
    def test_excluding_namespaces_is_an_error_only_if_the_namespaces_are_not_set(
        self, namespaces: str, is_error: bool
    ) -> None:
        remedy = "set namespaces to * as well: if it is empty, only one namespace is cleaned up anyway"
        error = SettingError("exclude_namespaces", "kube-system", DAG_FILE, remedy)
        resolved = read_settings({"exclude_namespaces": "kube-system", "namespaces": namespaces})
        assert resolved.errors == ([error] if is_error else [])

    @pytest.mark.parametrize(
        ("params", "run_conf", "error"),
        [
            ({"ticket": "OPS-1"}, {}, None),
            ({"ticket": "OPS-1"}, {"ticket": "OPS-1"}, None),
            ({"of_default_args": 1}, {}, None),
            ({"simulate": True}, {"simulate": True}, SettingError("simulate", HIDDEN, RUN_CONF, NO_SUCH_OPTION)),
            ({"dryrun": True}, {}, SettingError("dryrun", HIDDEN, DAG_PARAMS, MEANT_DRY_RUN)),
            ({"dryrun": True}, {"dryrun": True}, SettingError("dryrun", HIDDEN, RUN_CONF, MEANT_DRY_RUN)),
        ],
        ids=[
            "a param of the DAG file is the author's",
            "a run may set a param of the DAG file",
            "a param of the tasks is the author's",
            "a run must not set what nobody declares",
            "a param of the DAG file must not resemble an option",
            "a run must not set a param that resembles an option",
        ],
    )
    def test_params_that_the_dag_file_declares_follow_the_rule_that(
        self, params: dict[str, Any], run_conf: dict[str, Any], error: SettingError | None
    ) -> None:
        resolved = read_settings({}, params, run_conf, own_params={"ticket", "dryrun"})
        assert resolved.errors == ([error] if error else [])

    def test_an_invalid_value_is_an_error_even_if_a_valid_one_replaces_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "maybe")
        assert len(read_settings({}, {}, {"dry_run": True}).errors) == 1

    def test_one_exception_carries_all_errors_and_its_text_has_no_markup(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "yes")
        monkeypatch.setenv("AIRFLOW__KPOCLEANUP__DRY_RUN", "True")
        with pytest.raises(SettingsError) as caught:
            read_settings({"max_deletes": 0}, {}, {"namespaces": "A"}).validated()
        assert caught.value.summary == "4 invalid settings"
        names = ["AIRFLOW__KPOCLEANUP__DRY_RUN", "dry_run", "max_deletes", "namespaces"]
        assert [error.option for error in caught.value.errors] == names
        message = str(caught.value)
        assert re.findall(r"^- (\w+)[= ]", message, re.MULTILINE) == names
        assert "[" not in message

    def test_a_rejected_value_leaves_all_other_values_in_effect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "yes")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "None")
        assert read_settings({}).settings == Settings(schedule=None)


class TestDescription:
    def test_the_log_shows_values_that_were_set_with_their_origins_and_then_the_defaults(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(PREFIX + "NAMESPACES", "a")
        lines = read_settings({"max_deletes": 5}, {}, {"dry_run": True}).describe("1.2.3")
        text = " ".join(" ".join(lines).split())
        first, _, default = text.partition(" defaults: ")
        assert re.match(r"kpo_cleanup 1\.2\.3 on Airflow \d\S+, settings on this worker: ", first)
        assert first.endswith(
            f"dry_run=True (this run's conf) namespaces='a' ({PREFIX}NAMESPACES) max_deletes=5 (the DAG file)"
        )
        words = ("dry_run", "namespaces", "max_deletes", "schedule")  # the worker does not decide the schedule
        assert default == " ".join(f"{name}={getattr(Settings(), name)!r}" for name in OPTIONS if name not in words)
        assert all(len(line) <= 100 for line in lines)

    def test_the_log_shows_that_no_value_was_set(self) -> None:
        assert read_settings({}).describe("1.2.3")[0].endswith("settings on this worker: no options set")
