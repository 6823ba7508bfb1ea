"""The settings: promised defaults, what is taken, and how everything else is refused."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.errors import SettingsError
from include.kpo_cleanup.settings import OPTIONS, Settings, json_schema

DEFAULTS = {  # in the order in which people see them
    "dry_run": False,
    "namespaces": "",
    "settle_seconds": 300,
    "max_deletes": 500,
    "grace_period_seconds": 0,
    "label_selector": "kubernetes_pod_operator=True",
    "delete_completed_pods": True,
    "delete_pods_on_failure": False,
    "ttl_seconds_after_finished": None,
    "delete_unmatched_pods": False,
    "kubernetes_conn_id": "kubernetes_default",
    "airflow_conn_id": "",
}

A_YEAR = 31_536_000

COMPLETED = {"section": "Completed and unmatched pods"}
CONNECTIONS = {"section": "Connections"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "kubernetes_conn_id": {"type": "string", "minLength": 1, **CONNECTIONS},
    "namespaces": {"type": ["null", "string"]},
    "label_selector": {"type": "string", "minLength": 1},
    "dry_run": {"type": "boolean"},
    "settle_seconds": {"type": "integer", "minimum": 0, "maximum": A_YEAR},
    "grace_period_seconds": {"type": "integer", "minimum": -1, "maximum": A_YEAR},
    "max_deletes": {"type": "integer", "minimum": 1, "maximum": 100_000},
    "delete_completed_pods": {"type": "boolean", **COMPLETED},
    "delete_pods_on_failure": {"type": "boolean", **COMPLETED},
    "ttl_seconds_after_finished": {"type": ["null", "integer"], "minimum": 0, "maximum": A_YEAR, **COMPLETED},
    "delete_unmatched_pods": {"type": "boolean", **COMPLETED},
    "airflow_conn_id": {"type": ["null", "string"], **CONNECTIONS},
}

BOOLEANS = [name for name, schema in SCHEMAS.items() if schema["type"] == "boolean"]
NUMBERS = [name for name, schema in SCHEMAS.items() if "integer" in schema["type"]]
TEXTS = [name for name, schema in SCHEMAS.items() if "string" in schema["type"]]

ANY_WHOLE_NUMBER = f"a whole number from 0 to {A_YEAR}"

NO_SECONDS: list[Any] = [
    *("-1", -1, A_YEAR + 1, "5m", "1e3", "1_000", "+5", "٣", "", "9" * 400),
    *(5.0, None, True, [5], {}),
]
NOT_SCALARS: list[Any] = [[], [True], {}, {"dry_run": True}]

TAKEN = [
    # As strings, from a config file or the environment.
    pytest.param("dry_run", "True", True, id="True in a config file"),
    pytest.param("dry_run", " true ", True, id="true with blanks"),
    pytest.param("dry_run", "t", True, id="Airflow's t"),
    pytest.param("dry_run", "1", True, id="Airflow's 1"),
    pytest.param("dry_run", "FALSE", False, id="FALSE in a config file"),
    pytest.param("dry_run", "f", False, id="Airflow's f"),
    pytest.param("dry_run", "0", False, id="Airflow's 0"),
    pytest.param("settle_seconds", "0", 0, id="the lowest number as text"),
    pytest.param("settle_seconds", " 600 ", 600, id="a number with blanks"),
    pytest.param("grace_period_seconds", "-1", -1, id="a negative number as text"),
    pytest.param("max_deletes", "100000", 100_000, id="the highest number as text"),
    pytest.param("ttl_seconds_after_finished", "", None, id="no ttl as an empty text"),
    pytest.param("ttl_seconds_after_finished", "  ", None, id="no ttl as blanks"),
    pytest.param("ttl_seconds_after_finished", "0", 0, id="a ttl of zero, which is not none"),
    pytest.param("kubernetes_conn_id", " my_cluster ", "my_cluster", id="a text with blanks around it"),
    pytest.param("label_selector", "a=b,c in (d, e)", "a=b,c in (d, e)", id="a selector with commas"),
    # Typed, from the trigger form.
    pytest.param("dry_run", True, True, id="a typed True"),
    pytest.param("dry_run", False, False, id="a typed False"),
    pytest.param("settle_seconds", A_YEAR, A_YEAR, id="the highest typed number"),
    pytest.param("grace_period_seconds", -1, -1, id="the lowest typed number"),
    pytest.param("ttl_seconds_after_finished", None, None, id="a typed null for no ttl"),
    pytest.param("ttl_seconds_after_finished", 60, 60, id="a typed ttl"),
    pytest.param("namespaces", None, "", id="a typed null for an empty text"),
    pytest.param("airflow_conn_id", None, "", id="a typed null for no connection"),
    pytest.param("namespaces", "*", "*", id="all namespaces"),
]

REFUSED = [
    *[
        pytest.param(name, value, "True or False", id=f"{name}={value!r}")
        for name in BOOLEANS
        for value in ("yes", "on", "Tru", "", "2", 1, 0, None, 1.0)
    ],
    *[
        # Nothing checks the JSON that somebody triggers a run with while dag_run_conf_overrides_params is off.
        pytest.param("dry_run", no_scalar, "True or False", id=f"dry_run={no_scalar!r}")
        for no_scalar in NOT_SCALARS
    ],
    *[pytest.param("settle_seconds", value, ANY_WHOLE_NUMBER, id=f"settle_seconds={value!r}") for value in NO_SECONDS],
    pytest.param("grace_period_seconds", -2, f"a whole number from -1 to {A_YEAR}", id="grace below -1"),
    pytest.param("grace_period_seconds", "", f"a whole number from -1 to {A_YEAR}", id="no grace at all"),
    pytest.param("max_deletes", 0, "a whole number from 1 to 100000", id="max_deletes of zero"),
    pytest.param("max_deletes", "100001", "a whole number from 1 to 100000", id="max_deletes too high"),
    pytest.param("ttl_seconds_after_finished", -1, f"{ANY_WHOLE_NUMBER}, or empty", id="a negative ttl"),
    pytest.param("ttl_seconds_after_finished", "never", f"{ANY_WHOLE_NUMBER}, or empty", id="a ttl in words"),
    pytest.param("ttl_seconds_after_finished", False, f"{ANY_WHOLE_NUMBER}, or empty", id="a ttl of False"),
    *[
        pytest.param(name, value, "a text that is not empty", id=f"{name}={value!r}")
        for name in ("kubernetes_conn_id", "label_selector")
        for value in ("", "   ", None, 5, ["a"])
    ],
    pytest.param("namespaces", ["airflow"], "a text", id="namespaces as a list"),
    pytest.param("namespaces", 5, "a text", id="namespaces as a number"),
    pytest.param("airflow_conn_id", True, "a text", id="airflow_conn_id as a boolean"),
]


def make(**options: Any) -> Settings:
    return Settings.from_options(options, "origin")


class TestDefaults:
    def test_are_the_promised_ones(self) -> None:
        assert {option.name: getattr(Settings(), option.name) for option in fields(Settings)} == DEFAULTS

    def test_count_where_nothing_is_said(self) -> None:
        assert make() == Settings()

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_can_be_said(self, name: str) -> None:
        assert make(**{name: DEFAULTS[name]}) == Settings()

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_can_be_said_in_a_config_file(self, name: str) -> None:
        default = DEFAULTS[name]
        assert make(**{name: "" if default is None else str(default)}) == Settings()


class TestValues:
    @pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
    def test_are_taken_as_text_and_typed(self, name: str, value: Any, expected: Any) -> None:
        got = getattr(make(**{name: value}), name)
        assert (got, type(got)) == (expected, type(expected))

    @pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
    def test_are_refused_with_the_option_the_value_and_what_is_allowed(
        self, name: str, value: Any, allowed: str
    ) -> None:
        with pytest.raises(SettingsError) as caught:
            make(**{name: value})
        assert str(caught.value) == f"origin: {name}={value!r} is not allowed; give {allowed}"

    @pytest.mark.parametrize("name", NUMBERS)
    def test_are_taken_on_their_bounds_and_refused_beyond(self, name: str) -> None:
        low, high = SCHEMAS[name]["minimum"], SCHEMAS[name]["maximum"]
        assert [getattr(make(**{name: value}), name) for value in (low, str(low), high, str(high))] == [
            low,
            low,
            high,
            high,
        ]
        for value in (low - 1, high + 1):
            with pytest.raises(SettingsError, match=f"{name}={value} is not allowed"):
                make(**{name: value})

    @given(
        st.sampled_from(sorted(OPTIONS)),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=5,
        ),
    )
    def test_of_any_kind_are_taken_or_refused_but_never_crash(self, name: str, value: Any) -> None:
        try:
            settings = make(**{name: value})
        except SettingsError:
            return
        assert make(**{name: getattr(settings, name)}) == settings

    @given(st.sampled_from(BOOLEANS), st.text(max_size=8))
    def test_are_true_only_for_a_word_that_means_it(self, name: str, word: str) -> None:
        known = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        try:
            got = getattr(make(**{name: word}), name)
        except SettingsError:
            got = None
        assert got is known.get(word.strip().lower())


class TestUnknownOptions:
    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("dryrun", "dry_run"),
            ("dry-run", "dry_run"),
            ("namespace", "namespaces"),
            ("max_delete", "max_deletes"),
            ("delete_unmatched_pod", "delete_unmatched_pods"),
        ],
    )
    def test_are_refused_with_the_nearest_that_exists(self, name: str, suggestion: str) -> None:
        with pytest.raises(SettingsError) as caught:
            make(**{name: True})
        assert str(caught.value) == (
            f"origin: there is no option {name!r}; did you mean {suggestion!r}? The options are: {', '.join(DEFAULTS)}"
        )

    def test_are_refused_in_a_whole_sentence_where_none_is_near(self) -> None:
        with pytest.raises(SettingsError) as caught:
            make(xyz=1)
        assert str(caught.value) == f"origin: there is no option 'xyz'. The options are: {', '.join(DEFAULTS)}"

    def test_are_refused_before_any_value_is_looked_at(self) -> None:
        with pytest.raises(SettingsError, match="no option 'dryrun'"):
            make(settle_seconds="bad", dryrun=True)


class TestNamespaces:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("", [], id="nothing is the connection's own"),
            pytest.param("  ", [], id="blanks are nothing"),
            pytest.param(",,", [], id="commas alone are nothing"),
            pytest.param("airflow", ["airflow"], id="one"),
            pytest.param("b, a ,c", ["b", "a", "c"], id="several keep their order and lose their blanks"),
            pytest.param("a,b,a", ["a", "b"], id="one that is named twice counts once"),
            pytest.param("a,,b,", ["a", "b"], id="a comma too many does not matter"),
            pytest.param("*", ["*"], id="a star is all"),
            pytest.param(" * ", ["*"], id="a star with blanks is all"),
            pytest.param("a" * 63, ["a" * 63], id="the longest name there is"),
            pytest.param("0-a", ["0-a"], id="a name that starts with a digit"),
        ],
    )
    def test_are_read_from_one_text(self, text: str, expected: list[str]) -> None:
        assert make(namespaces=text).namespace_list() == expected

    @pytest.mark.parametrize(
        ("text", "bad"),
        [
            pytest.param("*,a", "*", id="a star among others"),
            pytest.param("a,*", "*", id="a star at the end"),
            pytest.param("team-*", "team-*", id="a pattern"),
            pytest.param("Airflow", "Airflow", id="a capital letter"),
            pytest.param("a_b", "a_b", id="an underscore"),
            pytest.param("a b", "a b", id="blanks instead of commas"),
            pytest.param("a;b", "a;b", id="semicolons instead of commas"),
            pytest.param("-a", "-a", id="a dash at the start"),
            pytest.param("a-", "a-", id="a dash at the end"),
            pytest.param("a.b", "a.b", id="a dot"),
            pytest.param("a" * 64, "a" * 64, id="too long"),
            pytest.param("../pods", "../pods", id="a path"),
            pytest.param("['a']", "['a']", id="a list in Python's notation"),
            pytest.param("ä", "ä", id="not ASCII"),
        ],
    )
    def test_are_refused_where_kubernetes_would(self, text: str, bad: str) -> None:
        with pytest.raises(SettingsError) as caught:
            make(namespaces=text)
        assert str(caught.value) == (
            f"namespaces={text!r}: {bad!r} is not a namespace name; give names such as 'airflow,team-a', "
            "'*' alone for all namespaces, or nothing for the connection's namespace"
        )

    def test_are_refused_where_settings_are_made_directly_as_well(self) -> None:
        with pytest.raises(SettingsError, match="is not a namespace name"):
            Settings(namespaces="A")


class TestShownSettings:
    @pytest.mark.parametrize("name", DEFAULTS)
    def test_have_a_schema_with_type_bounds_and_description(self, name: str) -> None:
        schema = json_schema(name)
        assert schema.pop("description").endswith(".")
        assert schema == SCHEMAS[name]

    def test_schema_is_made_afresh_each_time(self) -> None:
        json_schema("dry_run").clear()
        assert json_schema("dry_run")["type"] == "boolean"

    def test_are_described_in_one_line_with_every_option(self) -> None:
        changed, _, default = make(namespaces="a", dry_run=True).describe().partition("; by default: ")
        assert changed == "dry_run=True namespaces='a'"
        others = {name: value for name, value in DEFAULTS.items() if name not in ("dry_run", "namespaces")}
        assert default == " ".join(f"{name}={value!r}" for name, value in others.items())

    def test_say_that_nothing_was_changed(self) -> None:
        assert Settings().describe().startswith("none changed; by default: dry_run=False ")

    def test_do_not_change_during_a_run(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Settings().dry_run = False  # type: ignore[misc]
