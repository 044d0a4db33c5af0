"""Which models a request goes to, and what is changed in it on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_lite.catalog.models_file import policy_warnings
from gateway_lite.errors import ApiError
from gateway_lite.routing.model_rules import (
    Table,
    Traits,
    permitted,
    resolve,
    session_of,
    with_fields,
)
from hpc.gateway_policy import GatewayPolicy, ModelPolicy, ModelRule

TEAM = ModelRule("small", headers={"x-team": "1"})
KNOWN = ("big", "small", "tiny")
NAMES = st.sampled_from([*KNOWN, "gone", "auto", "gpt"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def ask(policy: GatewayPolicy, model: str, **more: Any) -> tuple[str, ...]:
    usual: dict[str, Any] = {"key": "k", "headers": {}, "prompt_tokens": 10, "max_tokens": None}
    return resolve(Table(policy, KNOWN), model, Traits(**{**usual, **more}))


def rules(*rules: ModelRule, **aliases: str) -> GatewayPolicy:
    return GatewayPolicy(aliases=aliases, rules=rules)


def fallbacks(**models: tuple[str, ...]) -> GatewayPolicy:
    return GatewayPolicy(models={name: ModelPolicy(fallback=f) for name, f in models.items()})


def test_without_a_policy_a_name_is_a_model() -> None:
    assert ask(GatewayPolicy(), "big") == ("big",)
    assert ask(GatewayPolicy(), "nobody") == ("nobody",)


def test_an_alias_stands_for_its_model_and_hides_none() -> None:
    policy = rules(gpt="big", small="big")
    assert ask(policy, "gpt") == ("big",)
    assert ask(policy, "small") == ("small",)


def test_the_first_rule_that_fits_decides_and_rules_do_not_chain() -> None:
    policy = rules(ModelRule("small", keys=("k",)), ModelRule("tiny", models=("small", "big")))
    assert ask(policy, "big") == ("small",)
    assert ask(policy, "big", key="other") == ("tiny",)
    assert ask(policy, "tiny", key="other") == ("tiny",)


def test_a_rule_takes_the_name_asked_for_or_what_it_stands_for() -> None:
    for waits in ("auto", "small"):
        policy = rules(ModelRule("gpt", models=(waits,)), auto="small", gpt="big")
        assert ask(policy, "auto") == ("big",)
    assert ask(rules(ModelRule("big", models=("auto",)), auto="small"), "small") == ("small",)


@pytest.mark.parametrize(
    ("rule", "fits", "fails"),
    [
        (ModelRule("small", prompt_tokens_over=10), {"prompt_tokens": 11}, {"prompt_tokens": 10}),
        (ModelRule("small", prompt_tokens_over=0), {"prompt_tokens": 1}, {"prompt_tokens": 0}),
        (ModelRule("small", max_tokens_over=9), {"max_tokens": 10}, {"max_tokens": 9}),
        (ModelRule("small", max_tokens_over=9), {"max_tokens": 10}, {"max_tokens": None}),
        (ModelRule("small", keys=("a", "b")), {"key": "b"}, {"key": "c"}),
        (TEAM, {"headers": {b"x-team": b"1"}}, {}),
        (TEAM, {"headers": {b"x-team": b"1"}}, {"headers": {b"x-team": b"2"}}),
        (ModelRule("small", headers={"x-team": ""}), {"headers": {b"x-team": b"2"}}, {}),
        (
            ModelRule("small", keys=("a",), max_tokens_over=9),
            {"key": "a", "max_tokens": 10},
            {"key": "a", "max_tokens": 9},
        ),
    ],
)
def test_every_condition_of_a_rule_counts(
    rule: ModelRule, fits: dict[str, Any], fails: dict[str, Any]
) -> None:
    assert ask(rules(rule), "big", **fits) == ("small",)
    assert ask(rules(rule), "big", **fails) == ("big",)


def test_a_rule_for_any_model_leaves_unknown_names_unknown() -> None:
    policy = rules(ModelRule("small", keys=("k",)), auto="big")
    assert ask(policy, "nobody") == ("nobody",)
    assert ask(policy, "auto") == ("small",)


def test_fallbacks_come_in_order_then_theirs_and_each_once() -> None:
    policy = fallbacks(big=("small", "big2"), small=("tiny", "big"), tiny=("small",))
    assert ask(policy, "big") == ("big", "small", "tiny")
    assert ask(policy, "small") == ("small", "tiny", "big")
    assert ask(policy, "tiny") == ("tiny", "small", "big")


def test_a_model_that_nobody_serves_is_passed_over() -> None:
    policy = fallbacks(gone=("small", "lost"), big=("lost",))
    assert ask(policy, "gone") == ("small",)
    assert ask(policy, "big") == ("big",)
    assert ask(fallbacks(gone=("lost",)), "gone") == ("gone",)


def test_a_fallback_that_cannot_take_the_request_is_passed_over() -> None:
    policy = GatewayPolicy(
        models={
            "big": ModelPolicy(fallback=("small", "tiny")),
            "small": ModelPolicy(max_tokens=100),
            "tiny": ModelPolicy(max_prompt_tokens=20),
        }
    )
    assert ask(policy, "big") == ("big", "small", "tiny")
    assert ask(policy, "big", max_tokens=101) == ("big", "tiny")
    assert ask(policy, "big", prompt_tokens=21) == ("big", "small")


@given(
    aliases=st.dictionaries(st.sampled_from(["auto", "gpt"]), NAMES),
    falls=st.dictionaries(NAMES, st.lists(NAMES, max_size=4).map(tuple)),
    uses=st.lists(NAMES, max_size=2),
    model=NAMES,
)
def test_whatever_the_policy_says_the_way_is_finite_and_known(
    aliases: dict[str, str], falls: dict[str, tuple[str, ...]], uses: list[str], model: str
) -> None:
    policy = GatewayPolicy(
        aliases=aliases,
        rules=tuple(ModelRule(name, keys=("k",)) for name in uses),
        models={name: ModelPolicy(fallback=chain) for name, chain in falls.items()},
    )
    found = ask(policy, model)
    assert found
    assert len(set(found)) == len(found)
    assert set(found[1:]) <= set(KNOWN)
    if model in KNOWN and not uses:
        assert found[0] == model


def test_a_key_is_held_to_its_models() -> None:
    table = Table(rules(auto="big"), KNOWN)

    def check(allowed: set[str], model: str, *models: str) -> tuple[str, ...]:
        return permitted(table, allowed.__contains__, model, models)

    assert check({"big"}, "big", "big") == ("big",)
    assert check({"big"}, "auto", "big") == ("big",)
    assert check({"auto"}, "auto", "big") == ("big",)
    assert check({"big", "tiny"}, "big", "big", "small", "tiny") == ("big", "tiny")
    for allowed, model, first, named in [
        ({"auto"}, "big", "big", "big"),
        ({"small"}, "auto", "big", "auto"),
        ({"auto"}, "auto", "small", "small"),
        ({"big"}, "big", "small", "small"),
    ]:
        with pytest.raises(ApiError) as caught:
            check(allowed, model, first)
        assert caught.value.status == 403
        assert repr(named) in caught.value.message


def test_how_replicas_are_chosen_is_said_by_model() -> None:
    policy = GatewayPolicy(
        routing="least_outstanding", models={"small": ModelPolicy(routing="round_robin")}
    )
    table = Table(policy, KNOWN)
    assert table.routing["small"] == "round_robin"
    assert table.routing["big"] == "least_outstanding"


def test_a_conversation_has_one_name() -> None:
    assert session_of({b"x-session-id": b"s"}, "u", "c") == "s"
    assert session_of({}, "u", "c") == "c"
    assert session_of({}, "u", None) == "u"
    assert session_of({b"x-session-id": b""}, 3, None) is None
    assert session_of({}, ["u"], {"c": 1}) is None


@given(
    body=st.dictionaries(st.text(), JSON, max_size=5),
    model=st.text(min_size=1),
    escaped=st.booleans(),
)
def test_only_the_model_is_another(body: dict[str, Any], model: str, escaped: bool) -> None:
    body["model"] = "before"
    try:
        raw = json.dumps(body, ensure_ascii=escaped, indent=2).encode()
        model.encode()
    except UnicodeEncodeError:
        return
    assert json.loads(with_fields(raw, model=model)) == {**body, "model": model}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":1e400}', b'{"model":"b","x":1e400}'),
        (b' {"x" : [ 1.0 , 2 ],\n "model" : "a" }\n', b'{"x":[ 1.0 , 2 ],"model":"b"}'),
        (b'{"model":"a","n":{"model":"a"},"model":"c"}', b'{"model":"b","n":{"model":"a"}}'),
        ('{"model":"a","x":"\\u00e9é\\/"}'.encode(), '{"model":"b","x":"\\u00e9é\\/"}'.encode()),
        (b'{"mod\\u0065l":"a"}', b'{"model":"b"}'),
    ],
)
def test_values_stay_byte_for_byte(body: bytes, expected: bytes) -> None:
    assert with_fields(body, model="b") == expected


@pytest.mark.parametrize("body", [b"", b"[]", b'{"model":', b'{"a":NaN}', b'{"\xff":1}'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        with_fields(body, model="b")
    assert caught.value.status == 400


def test_what_leads_nowhere_is_told() -> None:
    policy = GatewayPolicy(
        aliases={"gpt": "lost", "small": "big", "auto": "big"},
        rules=(ModelRule("auto", models=("gpt",)), ModelRule("lost", models=("big", "away"))),
        models={"big": ModelPolicy(fallback=("auto", "lost"))},
    )
    assert policy_warnings(policy, KNOWN) == (
        "the alias 'small' is not used, as a model has that name",
        "the alias 'gpt' stands for 'lost', which nobody serves",
        "rule 2 uses 'lost', which nobody serves",
        "rule 2 waits for 'away', which nobody serves",
        "the model 'big' falls back to 'lost', which nobody serves",
    )
    assert policy_warnings(GatewayPolicy(), ()) == ()


def test_the_ceilings_of_a_model_hold_for_its_adapters() -> None:
    policy = GatewayPolicy(models={"big": ModelPolicy(max_tokens=7)})
    table = Table(policy, (*KNOWN, "sql", "free"), {"sql": "big", "free": "small"})

    assert table.policies["sql"].max_tokens == 7
    assert "free" not in table.policies
    own = GatewayPolicy(models={**policy.models, "sql": ModelPolicy(max_tokens=3)})
    assert Table(own, (*KNOWN, "sql"), {"sql": "big"}).policies["sql"].max_tokens == 3
