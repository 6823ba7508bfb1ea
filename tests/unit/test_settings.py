"""The options: documented defaults, valid values, and the errors for all others."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.settings import MAX_LENGTH, OPTIONS, Settings, is_run_param, json_schema, parse
from include.kpo_cleanup.workloads.registry import KINDS

ALL_KINDS = ", ".join(kind.plural for kind in KINDS.values())

DEFAULTS = {  # in the order of the trigger form
    "dry_run": False,
    "namespaces": "",
    "settle_seconds": 300,
    "max_deletes": 500,
    "max_delete_percent": None,
    "grace_period_seconds": 0,
    "delete_completed_pods": True,
    "delete_pods_on_failure": False,
    "ttl_seconds_after_finished": None,
    "last_log_lines": 0,
    "schedule": "*/15 * * * *",
    "kinds": ALL_KINDS,
    "exclude_namespaces": "",
    "label_selector": "",
    "delete_unmatched_pods": False,
    "kubernetes_conn_id": "kubernetes_default",
    "airflow_conn_id": "",
}

A_YEAR = 31_536_000

BOUNDS = {
    "settle_seconds": (0, A_YEAR),
    "grace_period_seconds": (-1, A_YEAR),
    "max_deletes": (1, 100_000),
    "max_delete_percent": (1, 100),
    "ttl_seconds_after_finished": (0, A_YEAR),
    "last_log_lines": (0, 100),
}
TYPES: dict[str, str | list[str]] = {
    "dry_run": "boolean",
    "namespaces": ["null", "string"],
    "settle_seconds": "integer",
    "max_deletes": "integer",
    "max_delete_percent": ["null", "integer"],
    "grace_period_seconds": "integer",
    "delete_completed_pods": "boolean",
    "delete_pods_on_failure": "boolean",
    "ttl_seconds_after_finished": ["null", "integer"],
}
COMPLETED = ("delete_completed_pods", "delete_pods_on_failure", "ttl_seconds_after_finished")

BOOLEANS = [name for name, default in DEFAULTS.items() if isinstance(default, bool)]

SECONDS = f"a whole number from 0 to {A_YEAR}"
OPTIONAL_SECONDS = f"{SECONDS}, or leave it empty"

NAMES = "names of lowercase letters, digits and dashes, such as airflow,team-a, or * for all namespaces"
EXCLUDED_NAMES = "names of lowercase letters, digits and dashes, such as kube-system,team-b"

INVALID_NUMBERS: list[Any] = [
    "-1",
    -1,
    A_YEAR + 1,
    "5m",
    "1e3",
    "1_000",
    "+5",
    "٣",
    "",
    "9" * 400,
    5.0,
    None,
    True,
    [5],
    {},
]
NOT_SCALARS: list[Any] = [[], [True], {}, {"dry_run": True}]

VALID = [
    # As strings, from a config file or the environment.
    pytest.param("dry_run", "True", True, id="a flag is True in a config file"),
    pytest.param("dry_run", " true ", True, id="a flag is true with spaces"),
    pytest.param("dry_run", "t", True, id="a flag is t as in Airflow"),
    pytest.param("dry_run", "1", True, id="a flag is 1 as in Airflow"),
    pytest.param("dry_run", "FALSE", False, id="a flag is FALSE in a config file"),
    pytest.param("dry_run", "f", False, id="a flag is f as in Airflow"),
    pytest.param("dry_run", "0", False, id="a flag is 0 as in Airflow"),
    pytest.param("settle_seconds", "0", 0, id="a string has the lowest number"),
    pytest.param("settle_seconds", " 600 ", 600, id="a string has a number with spaces"),
    pytest.param("grace_period_seconds", "-1", -1, id="a string has a negative number"),
    pytest.param("max_deletes", "100000", 100_000, id="a string has the highest number"),
    pytest.param("ttl_seconds_after_finished", "", None, id="the ttl is an empty string"),
    pytest.param("ttl_seconds_after_finished", "  ", None, id="the ttl is only spaces"),
    pytest.param("ttl_seconds_after_finished", "0", 0, id="the ttl is zero, which is not the same as none"),
    pytest.param("kubernetes_conn_id", " my_cluster ", "my_cluster", id="a string has spaces around it"),
    pytest.param("label_selector", "a=b,c in (d, e)", "a=b,c in (d, e)", id="a selector has commas"),
    # Typed, from a DAG file.
    pytest.param("namespaces", ["a", "b"], "a,b", id="namespaces is a list"),
    pytest.param("exclude_namespaces", ("a", "b"), "a,b", id="exclude_namespaces is a tuple"),
    # Typed, from the trigger form.
    pytest.param("dry_run", True, True, id="a flag is a typed True"),
    pytest.param("dry_run", False, False, id="a flag is a typed False"),
    pytest.param("settle_seconds", A_YEAR, A_YEAR, id="a typed number is the highest one"),
    pytest.param("grace_period_seconds", -1, -1, id="a typed number is the lowest one"),
    pytest.param("ttl_seconds_after_finished", None, None, id="the ttl is a typed null"),
    pytest.param("ttl_seconds_after_finished", 60, 60, id="the ttl is a typed number"),
    pytest.param("namespaces", None, "", id="namespaces is a typed null"),
    pytest.param("airflow_conn_id", None, "", id="airflow_conn_id is a typed null"),
    pytest.param("namespaces", "*", "*", id="all namespaces are selected"),
    pytest.param("schedule", " 0 * * * * ", "0 * * * *", id="a schedule has spaces around it"),
    pytest.param("schedule", " NONE ", None, id="the schedule is the word none"),
    pytest.param("schedule", "", None, id="the schedule is an empty string"),
    pytest.param("schedule", None, None, id="the schedule is None"),
]

INVALID = [
    *[
        pytest.param(name, value, "True or False", id=f"{name}={value!r}")
        for name in BOOLEANS
        for value in ("yes", "on", "Tru", "", "2", 1, 0, None, 1.0)
    ],
    *[
        # Airflow does not validate a run's conf while dag_run_conf_overrides_params is off.
        pytest.param("dry_run", value, "True or False", id=f"dry_run={value!r}")
        for value in NOT_SCALARS
    ],
    *[pytest.param("settle_seconds", value, SECONDS, id=f"settle_seconds={value!r}") for value in INVALID_NUMBERS],
    pytest.param("grace_period_seconds", -2, f"a whole number from -1 to {A_YEAR}", id="the grace period is below -1"),
    pytest.param("grace_period_seconds", "", f"a whole number from -1 to {A_YEAR}", id="the grace period is empty"),
    pytest.param("max_deletes", 0, "a whole number from 1 to 100000", id="max_deletes is zero"),
    pytest.param("max_deletes", "100001", "a whole number from 1 to 100000", id="max_deletes is too high"),
    pytest.param("ttl_seconds_after_finished", -1, OPTIONAL_SECONDS, id="the ttl is negative"),
    pytest.param("ttl_seconds_after_finished", "never", OPTIONAL_SECONDS, id="the ttl is a word"),
    pytest.param("ttl_seconds_after_finished", False, OPTIONAL_SECONDS, id="the ttl is False"),
    *[
        pytest.param("kubernetes_conn_id", value, "the id of an Airflow connection", id=f"kubernetes_conn_id={value!r}")
        for value in ("", "   ", None, 5, ["a"])
    ],
    *[
        pytest.param("namespaces", value, NAMES, id=f"namespaces={value!r}")
        for value in ([], [""], ["a", 5], ["A"], ["a", "*"], {"a": "b"})
    ],
    pytest.param("label_selector", ["a=b"], "a string", id="label_selector is a list"),
    pytest.param("namespaces", 5, NAMES, id="namespaces is a number"),
    *[
        pytest.param("kinds", value, f"one or more of {ALL_KINDS}", id=f"kinds={value!r}")
        for value in ("", ",", "job", "pods jobs", "pods, cronjobs", "Pods", [], ["pods", "rays"], None)
    ],
    pytest.param("exclude_namespaces", "*", EXCLUDED_NAMES, id="all namespaces are excluded"),
    pytest.param("airflow_conn_id", True, "a string", id="airflow_conn_id is a boolean"),
]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (ALL_KINDS, list(KINDS)),
        (" jobs ,pods,", ["Pod", "Job"]),
        (["sparkapplications"], ["SparkApplication"]),
    ],
    ids=repr,
)
def test_the_list_of_kinds_has_the_named_ones_in_the_order_of_the_registry(value: Any, names: list[str]) -> None:
    assert [kind.api_kind for kind in make_settings(kinds=value).kind_list()] == names


def make_settings(**options: Any) -> Settings:
    return Settings(**{name: parse(name, value) for name, value in options.items()})


class TestDefaults:
    def test_the_defaults_are_the_documented_ones(self) -> None:
        in_code = {option.name: getattr(Settings(), option.name) for option in fields(Settings)}
        assert in_code == DEFAULTS, "edit DEFAULTS in tests/unit/test_settings.py"

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_a_default_can_be_set_explicitly(self, name: str) -> None:
        assert make_settings(**{name: DEFAULTS[name]}) == Settings()

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_a_default_can_be_set_in_a_config_file(self, name: str) -> None:
        default = DEFAULTS[name]
        assert make_settings(**{name: "" if default is None else str(default)}) == Settings()


class TestValues:
    @pytest.mark.parametrize(("name", "value", "expected"), VALID)
    def test_a_value_is_parsed_if(self, name: str, value: Any, expected: Any) -> None:
        got = parse(name, value)
        assert (got, type(got)) == (expected, type(expected))

    @pytest.mark.parametrize(("name", "value", "allowed"), INVALID)
    def test_a_value_is_rejected_with_the_allowed_ones_if(self, name: str, value: Any, allowed: str) -> None:
        with pytest.raises(ValueError, match=re.escape(allowed)) as caught:
            parse(name, value)
        assert str(caught.value) == allowed

    def test_the_bounds_of_each_number_are_tested(self) -> None:
        numbers = {name: option.metadata for name, option in OPTIONS.items() if str(option.type).startswith("int")}
        in_code = {name: (number.get("minimum"), number.get("maximum")) for name, number in numbers.items()}
        assert in_code == BOUNDS, "edit BOUNDS in tests/unit/test_settings.py; a number needs a minimum and a maximum"

    @pytest.mark.parametrize("name", BOUNDS)
    def test_a_number_is_accepted_up_to_its_bounds_and_rejected_beyond(self, name: str) -> None:
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
    def test_a_value_of_any_type_is_either_parsed_or_rejected_with_a_value_error(self, name: str, value: Any) -> None:
        try:
            parsed = parse(name, value)
        except ValueError:
            return
        assert parse(name, parsed) == parsed

    @given(st.sampled_from(BOOLEANS), st.text(max_size=8))
    def test_a_flag_is_true_or_false_only_for_a_word_with_that_meaning(self, name: str, word: str) -> None:
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
            pytest.param("", [], id="an empty string selects the connection's own"),
            pytest.param("  ", [], id="spaces select the connection's own"),
            pytest.param(",,", [], id="commas select the connection's own"),
            pytest.param("airflow", ["airflow"], id="there is one"),
            pytest.param("b, a ,c", ["b", "a", "c"], id="several keep their order and lose their spaces"),
            pytest.param("a,b,a", ["a", "b"], id="a duplicate is dropped"),
            pytest.param("a,,b,", ["a", "b"], id="extra commas are ignored"),
            pytest.param("*", ["*"], id="an asterisk selects all"),
            pytest.param(" * ", ["*"], id="an asterisk with spaces selects all"),
            pytest.param("a" * 63, ["a" * 63], id="a name has the maximum length"),
            pytest.param("0-a", ["0-a"], id="a name starts with a digit"),
        ],
    )
    def test_namespaces_are_parsed_if(self, text: str, expected: list[str]) -> None:
        assert make_settings(namespaces=text).namespace_list() == expected

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("*,a", id="an asterisk is in a list"),
            pytest.param("a,*", id="an asterisk ends a list"),
            pytest.param("team-*", id="there is a pattern"),
            pytest.param("Airflow", id="there is an uppercase letter"),
            pytest.param("a_b", id="there is an underscore"),
            pytest.param("a b", id="names are separated by spaces"),
            pytest.param("a;b", id="names are separated by semicolons"),
            pytest.param("-a", id="a name starts with a dash"),
            pytest.param("a-", id="a name ends with a dash"),
            pytest.param("a.b", id="there is a dot"),
            pytest.param("a" * 64, id="a name is too long"),
            pytest.param("../pods", id="there is a path"),
            pytest.param("['a']", id="it is a list in Python notation"),
            pytest.param("ä", id="a letter is not ASCII"),
        ],
    )
    def test_namespaces_are_rejected_if(self, text: str) -> None:
        with pytest.raises(ValueError, match="names of lowercase letters"):
            make_settings(namespaces=text)

    @given(st.text(alphabet="ab-*, \n", max_size=12))
    def test_namespaces_are_accepted_only_if_all_are_valid_names_or_all_are_selected(self, text: str) -> None:
        names = [name.strip() for name in text.split(",") if name.strip()]
        are_names = all(re.fullmatch("[ab]([ab-]*[ab])?", name) for name in names)
        try:
            assert make_settings(namespaces=text).namespace_list() == list(dict.fromkeys(names))
        except ValueError:
            assert not are_names
        else:
            assert are_names or text.strip() == "*"


class TestPatterns:
    """Airflow's API server evaluates the patterns of the trigger form, on any input."""

    @pytest.mark.timeout(20)  # quadratic time takes minutes
    @pytest.mark.parametrize("name", [name for name in OPTIONS if "pattern" in OPTIONS[name].metadata])
    @pytest.mark.parametrize("part", [" ", ",", " ,", "a", "a,", "a ,", "a-", "-", "\n"])
    def test_a_pattern_rejects_a_hostile_string_of_the_maximum_length_at_once(self, name: str, part: str) -> None:
        text = (part * MAX_LENGTH)[: MAX_LENGTH - 1] + "!"
        for hostile in (text, f"a{text}"):
            pattern = re.compile(OPTIONS[name].metadata["pattern"])
            assert (pattern.search(hostile) is None) == (name != "kubernetes_conn_id")

    def test_a_string_that_is_too_long_is_rejected_by_the_run_and_by_the_form(self) -> None:
        with pytest.raises(ValueError, match="at most 20,000 characters"):
            parse("namespaces", "a," * MAX_LENGTH)
        assert json_schema("namespaces")["maxLength"] == MAX_LENGTH

    def test_the_form_says_in_words_what_is_allowed(self) -> None:
        assert "names of lowercase letters" in json_schema("namespaces")["description"]


class TestRunParams:
    def test_the_options_of_scope_run_are_run_params(self) -> None:
        assert {name for name in OPTIONS if is_run_param(name)} == set(TYPES), (
            "edit TYPES in tests/unit/test_settings.py"
        )

    @pytest.mark.parametrize("name", TYPES)
    def test_the_schema_has_the_type_and_the_description_of_the_option(self, name: str) -> None:
        schema = json_schema(name)
        assert schema["description"].endswith(".")
        assert "`" not in schema["description"]
        assert schema["type"] == TYPES[name]
        assert schema.get("section") == ("Completed pods" if name in COMPLETED else None)

    @pytest.mark.parametrize("name", BOUNDS)
    def test_the_schema_hides_the_bounds_from_the_trigger_form(self, name: str) -> None:
        low, high = BOUNDS[name]
        schema = json_schema(name)
        assert schema["allOf"] == [{"minimum": low, "maximum": high}]
        assert not {"minimum", "maximum"} & set(schema)

    def test_each_schema_is_a_new_object(self) -> None:
        json_schema("dry_run").clear()
        assert json_schema("dry_run")["type"] == "boolean"

    def test_settings_are_immutable(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Settings().dry_run = False  # type: ignore[misc]
