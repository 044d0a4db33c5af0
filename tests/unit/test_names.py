"""One word, one meaning: names in the whole tree."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def class_names(*packages: str) -> dict[str, list[str]]:
    """Return the files that define each public class, by its name."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for package in packages:
        for path in sorted((PROJECT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(str(path.relative_to(PROJECT)))
    return dict(found)


def test_no_public_class_name_has_two_meanings() -> None:
    found = class_names("hpc", "gateway_lite")
    assert len(found) > 100
    assert {name: files for name, files in found.items() if len(files) > 1} == {}


def test_one_module_knows_the_paths_below_the_state_directory() -> None:
    """Everybody else asks hpc.state.directory; apt's folders have a root of their own."""
    own = {"hpc/state/directory.py", "hpc/images/apt_settings.py"}
    joins = re.compile(r"""\b_?root / f?["']""")
    found = [
        str(path.relative_to(PROJECT))
        for package in ("hpc", "gateway_lite")
        for path in sorted((PROJECT / package).rglob("*.py"))
        if joins.search(path.read_text(encoding="utf-8"))
    ]
    assert found == sorted(own)
