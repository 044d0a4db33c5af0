"""A web page in the browser of somebody who can reach a gateway without keys."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hpc.state import directory
from tests.contract.gateway.engines import Engine, serve
from tests.contract.gateway.programs import BODY, PATIENCE_S, run_gateway, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.contract.gateway.programs import Running

CHAT = "/v1/chat/completions"
LAB = "https://lab.example"
GETS = (
    *("/v1/models", "/v1/files", "/v1/batches", "/metrics", "/dashboard", "/dashboard/data"),
    *("/healthz", "/health", "/readyz", "/version", "/docs", "/openapi.json", "/api/tags"),
    *("/", "/nothing"),
)
POSTS = (
    *(CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank", "/v1/batches"),
    *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"),
    "/api/pull",
)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Return the engine behind the gateways of this module."""
    return Engine()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the gateway without keys."""
    return tmp_path_factory.mktemp("open")


@pytest.fixture(scope="module")
def gateway(engine: Engine, folder: Path) -> Iterator[Running]:
    """Run a gateway without keys that lets the pages of one origin ask."""
    home = directory.home(str(folder / "home"))
    more = ("--unix", str(home / "gateway.sock"))
    policy = {"anonymous": True, "cors": [LAB]}
    with serve(engine) as url, run_gateway(home, {"m": url}, *more, policy=policy) as running:
        yield running


@contextlib.contextmanager
def anybody(gateway: Running, uds: str | None = None) -> Iterator[httpx.Client]:
    """Return a client without a key that sends no more headers than it is told to."""
    transport = httpx.HTTPTransport(uds=uds)
    with httpx.Client(base_url=gateway.url, transport=transport, timeout=PATIENCE_S) as client:
        client.headers.clear()
        yield client


def ask(
    gateway: Running,
    path: str,
    headers: dict[str, str],
    *,
    method: str = "GET",
    content: bytes | None = None,
    uds: str | None = None,
) -> httpx.Response:
    """Send one request with a Host of this machine, unless told otherwise."""
    with anybody(gateway, uds) as client:
        ours = {"host": f"127.0.0.1:{gateway.port}"}
        return client.request(method, path, headers={**ours, **headers}, content=content)


def code(answer: httpx.Response) -> str:
    """Return the code of an error in OpenAI's form, or Ollama's text."""
    error = answer.json()["error"]
    return str(error["code"] if isinstance(error, dict) else error)


JSON = {"content-type": "application/json"}
HI = json.dumps(BODY).encode()


@pytest.mark.parametrize(
    "host",
    [
        *("attacker.example", "attacker.example:{port}", "127.0.0.1.attacker.example:{port}"),
        *("localhost.attacker.example", "127.0.0.1@attacker.example", "attacker", "0.0.0.0:{port}"),
        *("localhost:x", "127.0.0.1:{port}/", "[::2]", "127.0.0.1, attacker.example", "", "::1"),
    ],
)
@pytest.mark.parametrize("path", GETS)
def test_a_rebound_name_reads_nothing(gateway: Running, path: str, host: str) -> None:
    answer = ask(gateway, path, {"host": host.format(port=gateway.port)})

    assert answer.status_code == 421
    assert code(answer) == "misdirected_request" or "this gateway answers to" in code(answer)


@pytest.mark.parametrize("path", POSTS)
def test_a_rebound_name_makes_no_engine_work(gateway: Running, engine: Engine, path: str) -> None:
    before = len(engine.seen)
    name = f"attacker.example:{gateway.port}"
    page = {"host": name, "origin": f"http://{name}", "sec-fetch-site": "same-origin", **JSON}
    answer = ask(gateway, path, page, method="POST", content=HI)

    assert answer.status_code == 421
    assert len(engine.seen) == before


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LocalHost", "[::1]:{port}", "127.0.0.1:9"]
)
def test_the_names_of_this_machine_are_served(gateway: Running, host: str) -> None:
    name = {"host": host.format(port=gateway.port)}

    assert ask(gateway, "/v1/models", name).status_code == 200
    assert ask(gateway, CHAT, {**name, **JSON}, method="POST", content=HI).status_code == 200


FOREIGN = (
    {"origin": "https://attacker.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"origin": "https://lab.example.attacker.example"},
    {"origin": "https://lab.example:444"},
    {"origin": "http://lab.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "Cross-Site"},
    {"origin": "https://attacker.example", "sec-fetch-site": "cross-site"},
)


@pytest.mark.parametrize("page", FOREIGN)
@pytest.mark.parametrize("path", ["/v1/models", "/v1/files", "/dashboard/data", "/metrics"])
def test_a_foreign_page_reads_nothing(gateway: Running, page: dict[str, str], path: str) -> None:
    answer = ask(gateway, path, page)

    assert (answer.status_code, code(answer)) == (403, "cross_site_request")


@pytest.mark.parametrize("page", FOREIGN)
def test_a_foreign_page_makes_no_engine_work(
    gateway: Running, engine: Engine, page: dict[str, str]
) -> None:
    before = len(engine.seen)
    for path in POSTS:
        answer = ask(gateway, path, {**page, **JSON}, method="POST", content=HI)
        assert answer.status_code == 403, path

    assert len(engine.seen) == before


@pytest.mark.parametrize("page", FOREIGN)
def test_a_foreign_page_stores_and_removes_nothing(
    gateway: Running, folder: Path, page: dict[str, str]
) -> None:
    form = (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
        b'content-disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n--x--\r\n'
    )
    kind = {"content-type": "multipart/form-data; boundary=x"}
    upload = ask(gateway, "/v1/files", {**page, **kind}, method="POST", content=form)
    gone = ask(gateway, "/v1/files/file-" + "0" * 24, page, method="DELETE")

    assert (upload.status_code, gone.status_code) == (403, 403)
    assert not list((folder / "home" / "files").glob("*/*"))


@pytest.mark.parametrize(
    "kind",
    [
        *("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("text/plain; application/json", "application/jsonp", "", "application/json-patch"),
    ],
)
@pytest.mark.parametrize("path", POSTS)
def test_what_a_form_can_send_is_no_request(
    gateway: Running, engine: Engine, path: str, kind: str
) -> None:
    before = len(engine.seen)
    headers = {"content-type": kind} if kind else {}
    answer = ask(gateway, path, headers, method="POST", content=HI)

    assert answer.status_code == 415
    assert len(engine.seen) == before


CURL = {"user-agent": "curl/8.5.0", "content-type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_curl_may_call_json_a_form_and_no_browser_may(
    gateway: Running, engine: Engine, path: str
) -> None:
    before = len(engine.seen)
    browser = "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0"
    own = f"http://127.0.0.1:{gateway.port}"
    for page in (
        {"user-agent": browser},
        {"user-agent": f"{browser} curl/8.5.0"},
        {"user-agent": "curl"},
        {"origin": "https://attacker.example"},
        {"origin": own},
        {"origin": ""},
        {"sec-fetch-site": "none"},
    ):
        answer = ask(gateway, path, {**CURL, **page}, method="POST", content=HI)
        assert answer.status_code in (403, 415), page
    assert len(engine.seen) == before

    ask(gateway, path, CURL, method="POST", content=HI)
    assert len(engine.seen) == before + 1
    assert engine.seen[-1].headers["content-type"] == "application/json"


def test_a_chunked_body_without_a_kind_is_no_request(gateway: Running) -> None:
    with anybody(gateway) as client:
        host = {"host": f"127.0.0.1:{gateway.port}"}
        answer = client.post(CHAT, content=iter([HI]), headers=host)

    assert answer.status_code == 415


def test_our_own_page_and_allowed_origins_ask(gateway: Running) -> None:
    own = {"origin": f"http://127.0.0.1:{gateway.port}", "sec-fetch-site": "same-origin"}
    lab = {"origin": LAB, "sec-fetch-site": "cross-site"}
    typed = {"sec-fetch-site": "none"}
    with_charset = {"content-type": "Application/JSON; charset=utf-8"}

    for page in (own, lab, typed):
        assert ask(gateway, "/v1/models", page).status_code == 200
        more = {**page, **with_charset}
        assert ask(gateway, CHAT, more, method="POST", content=HI).status_code == 200
    assert ask(gateway, "/dashboard", typed).status_code == 200


def test_a_key_makes_the_checks_needless(gateway: Running) -> None:
    strange = {"host": "gateway.example", "origin": "https://app.example"}
    auth = {"authorization": f"Bearer {gateway.key}"}

    assert ask(gateway, "/v1/models", {**strange, **auth}).status_code == 200
    plain = {"content-type": "text/plain"}
    answer = ask(gateway, CHAT, {**strange, **auth, **plain}, method="POST", content=HI)
    assert answer.status_code == 200
    for other in ("Basic eDp5", "Bearer", "Digest x"):
        assert ask(gateway, "/v1/models", {**strange, "authorization": other}).status_code == 421


def test_a_unix_socket_takes_any_word_but_no_public_name(gateway: Running, folder: Path) -> None:
    path = str(folder / "home" / "gateway.sock")
    for host in ("gateway", "localhost", "hpc-serve", ""):
        assert ask(gateway, "/v1/models", {"host": host}, uds=path).status_code == 200
    # A tunnel leads a laptop's port, and so its browser, to this socket.
    for host in (f"127.0.0.1:{gateway.port}", "localhost:8081"):
        assert ask(gateway, "/v1/models", {"host": host}, uds=path).status_code == 200
    for host in ("attacker.example", "attacker.example:8081"):
        assert ask(gateway, "/v1/models", {"host": host}, uds=path).status_code == 421
    page = {"origin": "https://attacker.example", **JSON}
    answer = ask(gateway, CHAT, page, method="POST", content=HI, uds=path)
    assert answer.status_code == 403


def test_an_old_request_without_a_host_is_refused(gateway: Running) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE_S) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert b" 421 " in sock.makefile("rb").readline()


def test_all_pages_and_no_keys_do_not_go_together(engine: Engine, tmp_path: Path) -> None:
    home = directory.home(str(tmp_path / "home"))
    policy: dict[str, Any] = {"anonymous": True, "cors": ["*"]}
    said = r"gateway: anonymous: true with cors: \['\*'\] would let every web page"
    with (
        serve(engine) as url,
        pytest.raises(AssertionError, match=said),
        run_gateway(home, {"m": url}, policy=policy),
    ):
        pytest.fail("it runs")


def test_an_edit_does_not_open_a_running_gateway_to_all_pages(
    engine: Engine, tmp_path: Path
) -> None:
    home = directory.home(str(tmp_path / "home"))
    with serve(engine) as url, run_gateway(home, {"m": url}, policy={"anonymous": True}) as open_:
        file = tmp_path / "models.yaml"
        said = json.loads(file.read_text())
        said["gateway"] = {"anonymous": False, "cors": ["*"]}
        file.write_text(json.dumps(said))

        def refused() -> Any:
            return ask(open_, "/version", {}).json()["models_file"]["refused"]

        assert "gateway.cors: '*' is not allowed" in wait_until(refused)
        page = {"origin": "https://attacker.example"}
        assert ask(open_, "/v1/models", page).status_code == 403


def test_with_keys_any_name_and_page_reach_the_check_of_keys(
    engine: Engine, tmp_path: Path
) -> None:
    home = directory.home(str(tmp_path / "home"))
    with serve(engine) as url, run_gateway(home, {"m": url}) as keyed:
        strange = {"host": "login1.cluster", "origin": "https://attacker.example"}
        assert ask(keyed, "/v1/models", strange).status_code == 401
        assert ask(keyed, "/healthz", strange).status_code == 200
