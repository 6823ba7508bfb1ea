"""The settings: the promised defaults, the allowed values, and the errors for all others."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.settings import OPTIONS, Settings, is_run_param, json_schema, parse

DEFAULTS = {  # in the order in which people see them
    "dry_run": False,
    "namespaces": "",
    "settle_seconds": 300,
    "max_deletes": 500,
    "grace_period_seconds": 0,
    "delete_completed_pods": True,
    "delete_pods_on_failure": False,
    "ttl_seconds_after_finished": None,
    "schedule": "*/15 * * * *",
    "exclude_namespaces": "",
    "label_selector": "",
    "delete_unmatched_pods": False,
    "kubernetes_conn_id": "kubernetes_default",
    "airflow_conn_id": "",
}

A_YEAR = 31_536_000

FOR_A_RUN = {
    *("dry_run", "namespaces", "settle_seconds", "max_deletes", "grace_period_seconds"),
    *("delete_completed_pods", "delete_pods_on_failure", "ttl_seconds_after_finished"),
}
BOUNDS = {
    "settle_seconds": (0, A_YEAR),
    "grace_period_seconds": (-1, A_YEAR),
    "max_deletes": (1, 100_000),
    "ttl_seconds_after_finished": (0, A_YEAR),
}
TYPES: dict[str, str | list[str]] = {
    "dry_run": "boolean",
    "namespaces": ["null", "string"],
    "settle_seconds": "integer",
    "max_deletes": "integer",
    "grace_period_seconds": "integer",
    "delete_completed_pods": "boolean",
    "delete_pods_on_failure": "boolean",
    "ttl_seconds_after_finished": ["null", "integer"],
}
COMPLETED = ("delete_completed_pods", "delete_pods_on_failure", "ttl_seconds_after_finished")

BOOLEANS = [name for name, default in DEFAULTS.items() if isinstance(default, bool)]

ANY_WHOLE_NUMBER = f"a whole number from 0 to {A_YEAR}"

NAMES = "names of lower-case letters, digits and dashes, such as airflow,team-a; or * alone for all"
EXCLUDED_NAMES = "names of lower-case letters, digits and dashes, such as kube-system,team-b"

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
    pytest.param("schedule", " 0 * * * * ", "0 * * * *", id="a schedule with blanks around it"),
    pytest.param("schedule", " NONE ", None, id="no schedule as a word"),
    pytest.param("schedule", "", None, id="no schedule as an empty text"),
    pytest.param("schedule", None, None, id="no schedule as None"),
]

REFUSED = [
    *[
        pytest.param(name, value, "True or False", id=f"{name}={value!r}")
        for name in BOOLEANS
        for value in ("yes", "on", "Tru", "", "2", 1, 0, None, 1.0)
    ],
    *[
        # While dag_run_conf_overrides_params is off, nothing checks the JSON of a triggered run.
        pytest.param("dry_run", no_scalar, "True or False", id=f"dry_run={no_scalar!r}")
        for no_scalar in NOT_SCALARS
    ],
    *[pytest.param("settle_seconds", value, ANY_WHOLE_NUMBER, id=f"settle_seconds={value!r}") for value in NO_SECONDS],
    pytest.param("grace_period_seconds", -2, f"a whole number from -1 to {A_YEAR}", id="grace below -1"),
    pytest.param("grace_period_seconds", "", f"a whole number from -1 to {A_YEAR}", id="no grace at all"),
    pytest.param("max_deletes", 0, "a whole number from 1 to 100000", id="max_deletes of zero"),
    pytest.param("max_deletes", "100001", "a whole number from 1 to 100000", id="max_deletes too high"),
    pytest.param("ttl_seconds_after_finished", -1, f"{ANY_WHOLE_NUMBER}, or nothing", id="a negative ttl"),
    pytest.param("ttl_seconds_after_finished", "never", f"{ANY_WHOLE_NUMBER}, or nothing", id="a ttl in words"),
    pytest.param("ttl_seconds_after_finished", False, f"{ANY_WHOLE_NUMBER}, or nothing", id="a ttl of False"),
    *[
        pytest.param("kubernetes_conn_id", value, "the id of an Airflow connection", id=f"kubernetes_conn_id={value!r}")
        for value in ("", "   ", None, 5, ["a"])
    ],
    pytest.param("namespaces", ["airflow"], NAMES, id="namespaces as a list"),
    pytest.param("namespaces", 5, NAMES, id="namespaces as a number"),
    pytest.param("exclude_namespaces", "*", EXCLUDED_NAMES, id="all namespaces excluded"),
    pytest.param("airflow_conn_id", True, "a text", id="airflow_conn_id as a boolean"),
]


def make(**options: Any) -> Settings:
    return Settings(**{name: parse(name, value) for name, value in options.items()})


class TestDefaults:
    def test_are_the_promised_ones(self) -> None:
        assert {option.name: getattr(Settings(), option.name) for option in fields(Settings)} == DEFAULTS

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
        got = parse(name, value)
        assert (got, type(got)) == (expected, type(expected))

    @pytest.mark.parametrize(("name", "value", "allowed"), REFUSED)
    def test_are_refused_with_what_is_allowed(self, name: str, value: Any, allowed: str) -> None:
        with pytest.raises(ValueError, match=re.escape(allowed)) as caught:
            parse(name, value)
        assert str(caught.value) == allowed

    @pytest.mark.parametrize("name", BOUNDS)
    def test_are_taken_on_their_bounds_and_refused_beyond(self, name: str) -> None:
        low, high = BOUNDS[name]
        assert [parse(name, value) for value in (low, str(low), high, str(high))] == [low, low, high, high]
        for value in (low - 1, high + 1):
            with pytest.raises(ValueError, match=f"a whole number from {low} to {high}"):
                parse(name, value)

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
            parsed = parse(name, value)
        except ValueError:
            return
        assert parse(name, parsed) == parsed

    @given(st.sampled_from(BOOLEANS), st.text(max_size=8))
    def test_are_true_only_for_a_word_that_means_it(self, name: str, word: str) -> None:
        known = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
        try:
            got = parse(name, word)
        except ValueError:
            got = None
        assert got is known.get(word.strip().lower())


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
        "text",
        [
            pytest.param("*,a", id="a star among others"),
            pytest.param("a,*", id="a star at the end"),
            pytest.param("team-*", id="a pattern"),
            pytest.param("Airflow", id="a capital letter"),
            pytest.param("a_b", id="an underscore"),
            pytest.param("a b", id="blanks instead of commas"),
            pytest.param("a;b", id="semicolons instead of commas"),
            pytest.param("-a", id="a dash at the start"),
            pytest.param("a-", id="a dash at the end"),
            pytest.param("a.b", id="a dot"),
            pytest.param("a" * 64, id="too long"),
            pytest.param("../pods", id="a path"),
            pytest.param("['a']", id="a list in Python's notation"),
            pytest.param("ä", id="not ASCII"),
        ],
    )
    def test_are_refused_where_kubernetes_would(self, text: str) -> None:
        with pytest.raises(ValueError, match="names of lower-case letters"):
            make(namespaces=text)

    @given(st.text(alphabet="ab-*, \n", max_size=12))
    def test_are_names_of_kubernetes_or_refused(self, text: str) -> None:
        names = [name.strip() for name in text.split(",") if name.strip()]
        are_names = all(re.fullmatch("[ab]([ab-]*[ab])?", name) for name in names)
        try:
            assert make(namespaces=text).namespace_list() == list(dict.fromkeys(names))
        except ValueError:
            assert not are_names
        else:
            assert are_names or text.strip() == "*"


class TestShownSettings:
    def test_are_those_that_are_decided_for_a_run(self) -> None:
        assert {name for name in OPTIONS if is_run_param(name)} == FOR_A_RUN

    @pytest.mark.parametrize("name", TYPES)
    def test_have_a_schema_with_type_and_description(self, name: str) -> None:
        schema = json_schema(name)
        assert schema["description"].endswith(".")
        assert "`" not in schema["description"]
        assert schema["type"] == TYPES[name]
        assert schema.get("section") == ("Completed pods" if name in COMPLETED else None)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_have_bounds_where_no_form_sees_them(self, name: str) -> None:
        low, high = BOUNDS[name]
        schema = json_schema(name)
        assert schema["allOf"] == [{"minimum": low, "maximum": high}]
        assert not {"minimum", "maximum"} & set(schema)

    def test_schema_is_made_afresh_each_time(self) -> None:
        json_schema("dry_run").clear()
        assert json_schema("dry_run")["type"] == "boolean"

    def test_do_not_change_during_a_run(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Settings().dry_run = False  # type: ignore[misc]
