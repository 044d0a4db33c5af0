"""An OpenAPI document as one HTML page without external resources."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from gateway_lite.api.openapi.schemas import SCHEMAS

Json = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-family: ui-monospace, monospace; margin: 2rem 0 .3rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; }
tr + tr { border-top: 1px solid var(--line); }
code, pre { font: 13px/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: .7rem; overflow-x: auto; }
a { color: inherit; } summary { cursor: pointer; }
"""


def page(document: Json) -> str:
    """Return the page: all paths with their bodies and answers, and a curl command for each.

    Args:
        document: OpenAPI 3.1.
    """
    info = document["info"]
    ways = [(m, path, op) for path, ops in document["paths"].items() for m, op in ops.items()]
    groups = dict.fromkeys(op["tags"][0] for _, _, op in ways)
    listed = [_group(tag, [way for way in ways if way[2]["tags"][0] == tag]) for tag in groups]
    title = escape(info["title"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head><body><h1>{title} {escape(info['version'])}</h1>"
        f"<p>{_prose(info['description'])}</p>"
        "<p>Every request needs your key: <code>Authorization: Bearer KEY</code>. For programs, "
        '<a href="openapi.json">openapi.json</a> has the same content.</p>'
        f"{_overview(ways)}{''.join(listed)}{_schemas(document)}</body></html>"
    )


def _overview(ways: list[tuple[str, str, Json]]) -> str:
    rows = [
        f'<tr><td><code>{m.upper()}</code></td><td><a href="#{op["operationId"]}">'
        f"<code>{escape(path)}</code></a></td><td>{escape(op['summary'])}</td></tr>"
        for m, path, op in ways
    ]
    return f"<table>{''.join(rows)}</table>"


def _group(tag: str, ways: list[tuple[str, str, Json]]) -> str:
    return f"<h2>{escape(tag)}</h2>" + "".join(_operation(*way) for way in ways)


def _operation(method: str, path: str, about: Json) -> str:
    rows = [
        f"<tr><td><code>{status}</code></td><td>{_prose(answer['description'])}</td>"
        f"<td>{_kinds(answer)}</td></tr>"
        for status, answer in about["responses"].items()
    ]
    return (
        f'<h3 id="{about["operationId"]}">{method.upper()} {escape(path)}</h3>'
        f"<p>{escape(about['summary'])}{_takes(about)}</p>"
        f"<pre>{escape(curl(method, path, about))}</pre>"
        f"<details><summary>Answers</summary><table>{''.join(rows)}</table></details>"
    )


def _takes(about: Json) -> str:
    schema = _body(about)
    return f". Takes {_link(schema)}" if schema else ""


def _body(about: Json) -> Json:
    content = about.get("requestBody", {}).get("content", {})
    schema: Json = content.get("application/json", {}).get("schema", {})
    return schema


def _kinds(answer: Json) -> str:
    kinds = answer.get("content", {}).items()
    return "<br>".join(f"{_link(said['schema'])} <code>{escape(k)}</code>" for k, said in kinds)


def _link(schema: Json) -> str:
    """Return links to the named schemas in a schema."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    inner = [_link(one) for key in ("allOf", "anyOf") for one in schema.get(key, ())]
    return " or ".join(one for one in inner if one)


def curl(method: str, path: str, about: Json) -> str:
    """Return a curl command for an operation; the address is a variable.

    Args:
        method: HTTP method in lower case.
        path: path with placeholders.
        about: the operation.
    """
    # By a pipe: other users of the client's machine see the arguments of programs.
    keyed = 'echo "Authorization: Bearer $KEY" | curl --noproxy "*" -H @-'
    words = ['curl --noproxy "*"' if about.get("security") == [] else keyed]
    words.append(f'"$URL{path}"'.replace("{name}", "MODEL"))
    schema = _body(about)
    if schema:
        example = json.dumps(_example(schema))
        words += ["-H 'content-type: application/json'", f"-d '{example}'"]
    elif "multipart/form-data" in about.get("requestBody", {}).get("content", {}):
        words += ["-F purpose=batch", "-F file=@prompts.jsonl"]
    elif method != "get":
        words.append(f"-X {method.upper()}")
    return " \\\n  ".join(words)


def _example(schema: Json) -> Any:
    return SCHEMAS[schema["$ref"].rpartition("/")[2]]["examples"][0]


def _schemas(document: Json) -> str:
    shown = [
        f'<h3 id="{escape(name)}">{escape(name)}</h3><pre>{escape(json.dumps(one, indent=2))}</pre>'
        for name, one in document["components"]["schemas"].items()
    ]
    return "<h2>Schemas</h2>" + "".join(shown)


def _prose(text: str) -> str:
    """Return text as HTML, with text in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))
