"""Variables against web proxies for the gateway's address.

Many sites set ``http_proxy`` in every shell. Without an exception a client hands each prompt for
127.0.0.1 to the proxy, which answers 403 or reaches its own 127.0.0.1.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("no_proxy", "NO_PROXY")
"""Both spellings: curl and Python prefer the first, others read the second only."""
LOOPBACK = ("127.0.0.1", "localhost")
"""Not ::1, at which httpx before 0.24, and so the openai package, ends with "Invalid port"."""
ALL = "*"
"""The entry that switches proxies off altogether; curl knows it only as the whole value."""


def variables(env: Mapping[str, str], host: str) -> dict[str, str]:
    """Return ``no_proxy`` and ``NO_PROXY`` with their present entries and the gateway's host.

    Args:
        env: variables of the program's surroundings.
        host: host of the gateway's address, without brackets.
    """
    there = [
        entry.strip() for name in NAMES for entry in env.get(name, "").split(",") if entry.strip()
    ]
    joined = [ALL] if ALL in there else list(dict.fromkeys((*there, *LOOPBACK, host)))
    return dict.fromkeys(NAMES, ",".join(joined))


def exports(env: Mapping[str, str], host: str) -> list[str]:
    """Return the ``variables`` as lines for a shell."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables(env, host).items()]
