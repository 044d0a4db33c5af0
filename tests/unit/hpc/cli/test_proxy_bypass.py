"""The exceptions from web proxies that commands print and set."""

from __future__ import annotations

import pytest

from hpc.cli import proxy_bypass


@pytest.mark.parametrize(
    ("env", "host", "wanted"),
    [
        ({}, "127.0.0.1", "127.0.0.1,localhost"),
        ({"no_proxy": ".site.org"}, "127.0.0.1", ".site.org,127.0.0.1,localhost"),
        ({"NO_PROXY": ".site.org"}, "127.0.0.1", ".site.org,127.0.0.1,localhost"),
        ({"no_proxy": "a, b,", "NO_PROXY": "b,c"}, "127.0.0.1", "a,b,c,127.0.0.1,localhost"),
        ({"no_proxy": "localhost,127.0.0.1"}, "127.0.0.1", "localhost,127.0.0.1"),
        ({"no_proxy": "a"}, "login1", "a,127.0.0.1,localhost,login1"),
        ({}, "::1", "127.0.0.1,localhost,::1"),
        ({"no_proxy": "*", "NO_PROXY": "a"}, "127.0.0.1", "*"),
    ],
)
def test_the_gateway_joins_the_exceptions_that_are_there(
    env: dict[str, str], host: str, wanted: str
) -> None:
    assert proxy_bypass.variables(env, host) == {"no_proxy": wanted, "NO_PROXY": wanted}


def test_a_shell_reads_the_lines_as_they_are() -> None:
    lines = proxy_bypass.exports({"no_proxy": "*.site.org;$(id)"}, "127.0.0.1")
    value = "'*.site.org;$(id),127.0.0.1,localhost'"
    assert lines == [f"export no_proxy={value}", f"export NO_PROXY={value}"]
