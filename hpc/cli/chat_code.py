"""Programs that ask a question of ``chat``: with curl, Python, R and JavaScript."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def program(language: str, body: Mapping[str, Any]) -> str:
    """Return a program that sends a request to OPENAI_BASE_URL with OPENAI_API_KEY.

    Args:
        language: "curl", "python" (the openai package), "httpx", "r" (httr2) or "javascript".
        body: the request.
    """
    return PROGRAMS[language](body)


def _curl(body: Mapping[str, Any]) -> str:
    # The key goes through a pipe: arguments of programs are visible to everyone on the machine.
    return (
        'printf \'header = "Authorization: Bearer %s"\\n\' "$OPENAI_API_KEY" |\n'
        "  curl --config - --noproxy '*' --no-buffer --fail-with-body \\\n"
        '    "$OPENAI_BASE_URL/chat/completions" \\\n'
        "    --header 'Content-Type: application/json' --data @/dev/fd/3 3<<'END'\n"
        f"{json.dumps({**body, 'stream': True}, ensure_ascii=False)}\n"
        "END"
    )


def _python(body: Mapping[str, Any]) -> str:
    arguments = "".join(f"    {key}={value!r},\n" for key, value in body.items())
    return (
        "# python -m pip install openai\n"
        "from openai import DefaultHttpxClient, OpenAI\n\n"
        "client = OpenAI(http_client=DefaultHttpxClient(trust_env=False))\n"
        "answer = client.chat.completions.create(\n"
        f"{arguments}"
        "    stream=True,\n"
        ")\n"
        "for part in answer:\n"
        "    if part.choices:\n"
        '        print(part.choices[0].delta.content or "", end="", flush=True)\n'
        "print()"
    )


def _httpx(body: Mapping[str, Any]) -> str:
    return (
        "# python -m pip install httpx\n"
        "import os\n\n"
        "import httpx\n\n"
        "answer = httpx.Client(trust_env=False, timeout=600).post(\n"
        "    os.environ['OPENAI_BASE_URL'] + '/chat/completions',\n"
        "    headers={'Authorization': 'Bearer ' + os.environ['OPENAI_API_KEY']},\n"
        f"    json={dict(body)!r},\n"
        ")\n"
        "answer.raise_for_status()\n"
        "print(answer.json()['choices'][0]['message']['content'])"
    )


def _r(body: Mapping[str, Any]) -> str:
    # A raw string: R reads r"---(...)---" as it stands.
    return (
        "# install.packages('httr2')\n"
        "library(httr2)\n"
        'Sys.setenv(NO_PROXY = "127.0.0.1")\n'
        'answer <- request(paste0(Sys.getenv("OPENAI_BASE_URL"), "/chat/completions")) |>\n'
        '  req_auth_bearer_token(Sys.getenv("OPENAI_API_KEY")) |>\n'
        f'  req_body_raw(r"---({json.dumps(body)})---", "application/json") |>\n'
        "  req_timeout(600) |>\n"
        "  req_perform() |>\n"
        "  resp_body_json()\n"
        "cat(answer$choices[[1]]$message$content)"
    )


def _javascript(body: Mapping[str, Any]) -> str:
    return (
        "// node 18 or later; save as ask.mjs\n"
        "const answer = await fetch(process.env.OPENAI_BASE_URL + '/chat/completions', {\n"
        "  method: 'POST',\n"
        "  headers: {\n"
        "    'Authorization': `Bearer ${process.env.OPENAI_API_KEY}`,\n"
        "    'Content-Type': 'application/json',\n"
        "  },\n"
        f"  body: JSON.stringify({json.dumps(body)}),\n"
        "});\n"
        "if (!answer.ok) throw new Error(await answer.text());\n"
        "console.log((await answer.json()).choices[0].message.content);"
    )


PROGRAMS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "curl": _curl,
    "python": _python,
    "httpx": _httpx,
    "r": _r,
    "javascript": _javascript,
}
