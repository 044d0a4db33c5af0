"""Numbers out of rounds of measurements."""

from __future__ import annotations

from scripts.bench.report import Costs, median, ratios
from scripts.bench.wire import Target, spread


def rounds(*cpu: float | None, p50: float = 5.0) -> list[dict[str, object]]:
    """Return what the rounds of one cell found."""
    return [{"cpu_us": one, "lat_us": {"p50": p50}, "errors": 1, "non200": 0} for one in cpu]


PERF = {
    "u64": {
        "direct": rounds(None, None, None, p50=2.0),
        "slow": rounds(10.0, 100.0, 40.0),
        "base": rounds(5.0, 50.0, 10.0),
    }
}


def test_ratios_are_of_one_round_and_not_of_medians() -> None:
    costs = Costs(PERF)

    assert costs.of("u64", "slow", "cpu_us") == 40.0
    assert costs.ratio("u64", "slow", "base") == 2.0
    assert costs.ratio("u64", "slow", "missing") is None
    assert "| slow | - | 2.00 |" in ratios(costs, ["direct", "slow"], "base")


def test_added_is_the_difference_to_the_way_without_a_gateway() -> None:
    assert Costs(PERF).added("u64", "slow", "lat_us", "p50") == 3.0


def test_a_gateway_that_failed_has_no_numbers() -> None:
    assert median([None, None]) is None
    assert Costs({"u64": {"slow": [{"error": "x"}]}}).of("u64", "slow", "cpu_us") is None
    assert Costs(PERF).bad("slow") == 3


def test_percentiles_are_microseconds() -> None:
    found = spread([1000 * n for n in range(100, 0, -1)])

    assert (found["p50"], found["p99"], found["max"], found["n"]) == (51.0, 100.0, 100.0, 100)
    assert spread([])["p50"] is None


def test_a_request_is_as_long_as_it_says() -> None:
    target = Target("http://127.0.0.1:81/v1", ("authorization: Bearer k",), "large")
    head, _, body = target.request(stream=True).partition(b"\r\n\r\n")

    assert f"Content-Length: {len(body)}".encode() in head
    assert b"authorization: Bearer k" in head
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:81\r\n")
    assert 64_000 < len(body) < 68_000
