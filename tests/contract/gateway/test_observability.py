"""The Grafana dashboard and the alert rules ask only for what the gateway emits."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hpc.keys import store as key_store
from hpc.keys.limits import KeyLimits
from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, REPO, run_gateway, save_replica, save_service
from tests.contract.gateway.test_failover import dead_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    Values = dict[str, dict[str, set[str]]]

DOCS = REPO / "docs" / "observability"
DASHBOARD = json.loads((DOCS / "grafana.json").read_text(encoding="utf-8"))
RULES = [
    rule
    for group in yaml.safe_load((DOCS / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
SCRAPER = {"job", "instance"}
"""Labels that Prometheus itself adds."""
VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$model": ".*"}
NEVER_SEEN = {
    ("hpc_serve_gateway_errors_total", "kind", "model_not_ready"),
    ("hpc_serve_gateway_replica_breaker", "state", "half-open"),
}
"""Values of labels that a test does not bring about within seconds."""
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


def panels() -> list[dict[str, Any]]:
    """Return the panels that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each query with the name of what asks it."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        yield note["name"], note["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found
            yield variable["name"], f"sum by ({found[2]}) ({found[1]})"
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def names() -> list[str]:
    """Return a short name for each query."""
    return [f"{number}-{name}" for number, (name, _) in enumerate(expressions())]


def parse(text: str) -> promql_parser.Expr:
    """Parse a query as Grafana sends it."""
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return promql_parser.parse(text)


def below(expr: Any) -> Iterator[Any]:
    """Yield an expression and all of its parts."""
    yield expr
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        part = getattr(expr, name, None)
        if isinstance(part, promql_parser.Expr):
            yield from below(part)
    for part in getattr(expr, "args", ()):
        yield from below(part)


def selectors(expr: Any) -> list[Any]:
    """Return the series that an expression asks for."""
    return [part for part in below(expr) if isinstance(part, promql_parser.VectorSelector)]


def grouped(expr: Any) -> Iterator[tuple[set[str], Any]]:
    """Yield labels by which is grouped or joined, and where they must be."""
    for part in below(expr):
        modifier = getattr(part, "modifier", None)
        if isinstance(part, promql_parser.AggregateExpr) and modifier is not None:
            yield set(modifier.labels), part.expr
        matching = getattr(modifier, "matching", None)
        if matching is not None:
            yield set(matching.labels), part


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the metrics of a real gateway that had some trouble."""
    home = directory.home(str(tmp_path_factory.mktemp("observed") / "home"))
    path = directory.keys_path(home)
    limited, _ = key_store.add(path, "limited", limits=KeyLimits(rpm=1))
    engine = Engine()
    save_service(home, replicas=2)
    with serve(engine) as url, dead_address() as dead:
        save_replica(home, url)
        save_replica(home, dead, number=1)
        with run_gateway(home) as gateway:
            for number in range(8):
                words = [{"role": "user", "content": f"{number} " * 20}]
                ask = {"messages": words, "usage": USAGE, "temperature": 0}
                gateway.post({**ask, "stream": bool(number % 2)})
            gateway.post({"status": 500})
            with gateway.client() as client:
                mine = {"authorization": f"Bearer {limited}"}
                for _ in range(2):
                    client.post("/v1/chat/completions", json=BODY, headers=mine)
            return gateway.metrics()


@pytest.fixture(scope="module")
def emitted(scraped: str) -> Values:
    """Return the values of each label of each metric."""
    found: Values = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            for name, value in sample.labels.items():
                found[sample.name][name].add(value)
            found[sample.name]["job"].add("")
            found[sample.name]["instance"].add("")
    return {name: dict(labels) for name, labels in found.items()}


@pytest.fixture(scope="module")
def kinds(scraped: str) -> dict[str, str]:
    """Return of each series whether it is a counter, a gauge or part of a histogram."""
    families = text_string_to_metric_families(scraped)
    return {sample.name: family.type for family in families for sample in family.samples}


@pytest.mark.parametrize(("name", "text"), [*expressions()], ids=names())
def test_it_asks_for_what_there_is(name: str, text: str, emitted: Values) -> None:
    expr = parse(text)
    assert selectors(expr), name
    for selector in selectors(expr):
        labels = emitted.get(selector.name)
        assert labels is not None, f"{name}: there is no {selector.name}"
        for matcher in selector.matchers.matchers:
            known = labels.get(matcher.name)
            assert known is not None, f"{name}: {selector.name} has no {matcher.name}"
            if (selector.name, matcher.name, matcher.value) not in NEVER_SEEN:
                pattern = matcher.value if "Re" in str(matcher.op) else re.escape(matcher.value)
                assert any(re.fullmatch(pattern, value) for value in known), (name, known)


@pytest.mark.parametrize(("name", "text"), [*expressions()], ids=names())
def test_it_groups_by_labels_that_there_are(name: str, text: str, emitted: Values) -> None:
    for labels, part in grouped(parse(text)):
        for selector in selectors(part):
            assert labels <= set(emitted[selector.name]), name


def calls(expr: Any, *names: str) -> list[Any]:
    """Return the calls of these functions."""
    found = [part for part in below(expr) if isinstance(part, promql_parser.Call)]
    return [call for call in found if call.func.name in names]


@pytest.mark.parametrize(("name", "text"), [*expressions()], ids=names())
def test_it_treats_each_kind_of_metric_as_that_is(
    name: str, text: str, kinds: dict[str, str]
) -> None:
    """What only grows is asked for its growth, and nothing else is."""
    expr = parse(text)
    rates = [s.name for call in calls(expr, "rate", "increase") for s in selectors(call)]
    asked = [s.name for s in selectors(expr)]
    grows = [series for series in asked if kinds[series] != "gauge"]

    assert sorted(rates) == sorted(grows), name


@pytest.mark.parametrize(("name", "text"), [*expressions()], ids=names())
def test_quantiles_are_of_buckets(name: str, text: str) -> None:
    expr = parse(text)
    buckets = [s.name for s in selectors(expr) if s.name.endswith("_bucket")]
    used = []
    for call in calls(expr, "histogram_quantile"):
        share, what = call.args
        assert 0 < share.val < 1, name
        assert "le" in _left(what), name
        used += [s.name for s in selectors(what)]

    assert used == buckets, name


def test_panels_show_what_is_chosen(emitted: Values) -> None:
    for panel in panels():
        for target in panel["targets"]:
            for selector in selectors(promql_parser.parse(_ranged(target["expr"]))):
                chosen = {m.name: m.value for m in selector.matchers.matchers}
                assert chosen["job"] == "$job", panel["title"]
                if "model" in emitted[selector.name]:
                    assert chosen.get("model") == "$model", panel["title"]


def _ranged(text: str) -> str:
    return text.replace("$__rate_interval", VARIABLES["$__rate_interval"])


def test_legends_and_sentences_use_labels_that_are_left() -> None:
    for panel in panels():
        for target in panel["targets"]:
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= _left(parse(target["expr"])), panel["title"]
    for rule in RULES:
        told = json.dumps(rule["annotations"])
        used = set(re.findall(r"\$labels\.(\w+)", told))
        assert used <= _left(parse(rule["expr"])), rule["alert"]


def _left(expr: Any) -> set[str]:
    """Return the labels of a result, where the outermost aggregation says them."""
    for part in below(expr):
        if isinstance(part, promql_parser.AggregateExpr):
            return set(part.modifier.labels) if part.modifier else set()
    return set()


def test_every_metric_is_shown(emitted: Values) -> None:
    asked = {s.name for _, text in expressions() for s in selectors(parse(text))}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    ours = {re.sub(r"_(bucket|count|sum)$", "", n) for n in emitted if n.startswith("hpc_serve")}

    assert ours - shown == {"hpc_serve_gateway_models_file_refused_timestamp_seconds"}


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    sources = {json.dumps(panel["datasource"]) for panel in panels()}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells

    assert DASHBOARD["schemaVersion"] >= 36  # Grafana 10
    assert len(set(numbers)) == len(numbers) > 20
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    assert "__inputs" not in DASHBOARD


def test_rules_have_what_prometheus_wants() -> None:
    names = [rule["alert"] for rule in RULES]

    assert len(set(names)) == len(names) > 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"HpcServe\w+", rule["alert"])
        assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
