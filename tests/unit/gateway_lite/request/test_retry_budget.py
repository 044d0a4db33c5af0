"""The budget of second attempts."""

from __future__ import annotations

from gateway_lite.request.retry_budget import (
    MOST_RETRIES,
    RETRIES_PER_S,
    RETRY_SHARE,
    RetryBudget,
)


def drained() -> RetryBudget:
    budget = RetryBudget()
    while budget.withdraw():
        pass
    return budget


def test_a_replica_that_dies_with_hundreds_of_requests_costs_no_answer() -> None:
    budget = RetryBudget()
    assert sum(budget.withdraw() for _ in range(int(MOST_RETRIES) + 50)) == MOST_RETRIES


def test_when_everything_fails_a_share_is_tried_again() -> None:
    budget = drained()
    tried = 0
    for _ in range(1000):
        budget.deposit()
        tried += budget.withdraw()
    assert tried == int(1000 * RETRY_SHARE) or tried == int(1000 * RETRY_SHARE) - 1


def test_some_are_allowed_each_second_whatever_their_number() -> None:
    budget = drained()
    budget.passed(1.0)
    assert sum(budget.withdraw() for _ in range(100)) == RETRIES_PER_S


def test_what_is_saved_has_a_bound() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.deposit()
    budget.passed(1e6)
    assert sum(budget.withdraw() for _ in range(2000)) <= MOST_RETRIES + 1
