"""Docstring summaries name their subjects, so that each can be read without its neighbours."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("hpc",)
CLAUSES_PERCENT = 3.0
"""Most summaries that begin with a free relative clause, in percent."""
PRONOUNS_PERCENT = 5.0
"""Most pronouns in 100 words of summaries."""

RELATIVES = "what|how|who|whom|whose|where|which|why|when"
CLAUSE = re.compile(rf"(?:[A-Z][a-z]+ )?(?:(?:over|on|down|out) )?(?:{RELATIVES})\b", re.IGNORECASE)
PRONOUN = re.compile(
    r"\b(?:it|its|itself|ones?|this|that|these|those|they|them|there|such|others?"
    r"|what|who|whom|whose|(?:some|no)body|(?:some|any|no)thing)\b",
    re.IGNORECASE,
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Summary:
    """The first paragraph of a docstring, and its place."""

    place: str
    text: str

    @property
    def has_free_clause(self) -> bool:
        return CLAUSE.match(self.text) is not None

    @property
    def pronouns(self) -> int:
        return len(PRONOUN.findall(self.text))

    @property
    def words(self) -> int:
        return len(re.findall(r"[A-Za-z']+", self.text))

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


def summaries(source: str, name: str) -> list[Summary]:
    """Return the summaries of a module's source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        if text:
            first = " ".join(text.strip().split("\n\n")[0].split())
            found.append(Summary(f"{name}:{getattr(node, 'lineno', 1)}", first))
    return found


def summaries_of(package: str) -> list[Summary]:
    """Return the summaries of a package's modules."""
    files = sorted((PROJECT / package).rglob("*.py"))
    return [
        one
        for file in files
        for one in summaries(file.read_text(encoding="utf-8"), str(file.relative_to(PROJECT)))
    ]


def listed(offenders: list[Summary]) -> str:
    return "\n".join(map(str, offenders))


@pytest.mark.parametrize("package", PACKAGES)
def test_summaries_begin_with_a_noun_or_a_verb_with_a_noun(package: str) -> None:
    found = summaries_of(package)
    offenders = [one for one in found if one.has_free_clause]
    share = 100 * len(offenders) / len(found)
    assert share < CLAUSES_PERCENT, f"{share:.1f} % of {len(found)}:\n{listed(offenders)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_summaries_name_things_instead_of_pointing_at_them(package: str) -> None:
    found = summaries_of(package)
    rate = 100 * sum(one.pronouns for one in found) / sum(one.words for one in found)
    most = sorted((one for one in found if one.pronouns), key=lambda one: -one.pronouns)
    assert rate < PRONOUNS_PERCENT, f"{rate:.1f} in 100 words:\n{listed(most)}"


@pytest.mark.parametrize(
    ("summary", "free"),
    [
        ("What a batch is.", True),
        ("Return what is left.", True),
        ("Tell how far it came.", True),
        ("Hand on what came.", True),
        ("Return whether a job waits.", False),
        ("Return the phase of a replica.", False),
        ("Somewhere over the rainbow.", False),
    ],
)
def test_a_free_relative_clause_is_recognised(summary: str, free: bool) -> None:
    (module,) = summaries(f'"""{summary}"""\n', "example.py")
    assert module.has_free_clause is free


def test_summaries_of_modules_classes_and_functions_are_found() -> None:
    source = '''"""One."""
class Two:
    """Two.

    It is the rest, and does not count.
    """
    async def three(self):
        """Three that it
        continues."""
'''
    found = summaries(source, "example.py")
    assert [one.text for one in found] == ["One.", "Two.", "Three that it continues."]
    assert [one.pronouns for one in found] == [1, 0, 2]
