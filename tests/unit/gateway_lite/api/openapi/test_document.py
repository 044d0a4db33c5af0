"""The OpenAPI document and the page made of it."""

from __future__ import annotations

import inspect
import json
import re
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest

from gateway_lite import errors
from gateway_lite.api.openapi import document
from gateway_lite.api.openapi.page import curl, page
from gateway_lite.api.openapi.schemas import SCHEMAS
from gateway_lite.app import HOT
from hpc.model import Phase

EVERYTHING = document.document(document.OPERATIONS)
ARGUMENTS: dict[str, Any] = {
    "phase": Phase.QUEUED,
    "limit": 5,
    "seconds": 5,
    "path": "/v1/models",
    "method": "POST",
}


def made() -> list[errors.ApiError]:
    """Return an error of every kind."""
    found = []
    for _, function in inspect.getmembers(errors, inspect.isfunction):
        shape = inspect.signature(function)
        if function.__module__ == errors.__name__ and shape.return_annotation == "ApiError":
            needed = [name for name, one in shape.parameters.items() if one.default is one.empty]
            found.append(function(*(ARGUMENTS.get(name, "m") for name in needed)))
    return found


MADE = made()


def references(value: Any) -> set[str]:
    """Return every schema that is pointed at."""
    if isinstance(value, dict):
        own = {value["$ref"].rpartition("/")[2]} if "$ref" in value else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_schema_is_one_and_is_used() -> None:
    for name, schema in SCHEMAS.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for example in schema.get("examples", ()):
            jsonschema.validate(example, schema)
        assert name in references(EVERYTHING), name

    assert references(EVERYTHING) <= set(SCHEMAS)


def test_what_the_gateway_serves_is_described() -> None:
    served = {(method.decode(), path) for (method, _), path in HOT.items()}

    assert served <= set(document.OPERATIONS)


def test_what_nobody_described_cannot_be_served() -> None:
    with pytest.raises(KeyError, match="/secret"):
        document.document([("GET", "/secret")])


def test_every_error_of_ours_is_one_by_the_schema() -> None:
    assert len(MADE) > 10
    schema = {**SCHEMAS["Error"], "components": {"schemas": SCHEMAS}}
    for error in MADE:
        jsonschema.validate(json.loads(error.body()), schema)


def test_the_codes_that_a_hot_path_may_answer_are_all_there() -> None:
    answers = EVERYTHING["paths"]["/v1/chat/completions"]["post"]["responses"]
    told = {
        status: set(re.findall(r"`(\w+)`", said["description"])) for status, said in answers.items()
    }
    elsewhere = {"unknown_url", "method_not_allowed", "unproved_connection"}

    for error in MADE:
        assert error.code in elsewhere or error.code in told[str(error.status)], error.code


def test_an_operation_has_a_name_of_its_own() -> None:
    names = [one["operationId"] for way in EVERYTHING["paths"].values() for one in way.values()]

    assert len(names) == len(set(names)) == len(document.OPERATIONS)
    assert all(re.fullmatch(r"\w+", name) for name in names)


class Seen(HTMLParser):
    """What a browser would load or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "img", "link", "iframe")
        assert "src" not in found
        self.links |= {found["href"] or ""} if "href" in found else set()
        self.ids |= {found["id"] or ""} if "id" in found else set()
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_loads_nothing_and_its_links_lead_somewhere() -> None:
    seen = Seen()
    html = page(EVERYTHING)
    seen.feed(html)

    assert seen.open == []
    assert seen.links - {"openapi.json"} <= {f"#{one}" for one in seen.ids}
    assert "http" not in html.replace('"http"', "").replace("&quot;http&quot;", "")
    for _, path in document.OPERATIONS:
        assert path in html


def test_the_commands_ask_for_what_the_page_says() -> None:
    chat = EVERYTHING["paths"]["/v1/chat/completions"]["post"]

    assert curl("post", "/v1/chat/completions", chat).splitlines() == [
        'echo "Authorization: Bearer $KEY" | curl --noproxy "*" -H @- \\',
        '  "$URL/v1/chat/completions" \\',
        "  -H 'content-type: application/json' \\",
        """  -d '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello"}]}'""",
    ]
    health = EVERYTHING["paths"]["/healthz"]["get"]
    assert curl("get", "/healthz", health) == 'curl --noproxy "*" \\\n  "$URL/healthz"'
    upload = EVERYTHING["paths"]["/v1/files"]["post"]
    assert curl("post", "/v1/files", upload).endswith(
        "-F purpose=batch \\\n  -F file=@prompts.jsonl"
    )
