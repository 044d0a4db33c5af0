"""What the data path uses of uvicorn beside its public API: a change of it fails here."""

from __future__ import annotations

import inspect
import re

from uvicorn.config import Config
from uvicorn.protocols.http import httptools_impl
from uvicorn.server import Server, ServerState

from gateway_lite.http import protocol
from gateway_lite.request.exchange import Exchange

PROTOCOL = httptools_impl.HttpToolsProtocol


def test_the_protocol_still_calls_what_we_override() -> None:
    ours = {
        name
        for name, value in vars(protocol.InferenceProtocol).items()
        if inspect.isfunction(value)
    }
    theirs = {name for name, value in vars(PROTOCOL).items() if inspect.isfunction(value)}
    own = {"answered", "defaults", "linger", "look", "refuse", "write", "_give_up", "_next"}
    own |= {
        "_close",
        "_last_words",
        "_stay",
        "_look_at_request",
        "_drop",
        "_drop_more",
        "_check_pace",
        "_end_asgi",
    }
    own |= {"_pause_replica", "_leave_budget", "_reads_too_slowly", "_sends_too_slowly"}
    own |= {"cut", "evict", "idle", "shown_key"}
    assert ours - theirs == own | {"_leave_to_asgi"}


def test_a_page_whose_client_is_told_to_go_has_what_we_set() -> None:
    cycle = inspect.getsource(httptools_impl.RequestResponseCycle)
    for name in ("response_started", "disconnected", "message_event", "more_body"):
        assert f"self.{name} = " in cycle


def test_a_pipelined_cycle_is_started_by_the_method_that_we_override() -> None:
    for method in ("on_headers_complete", "on_response_complete"):
        assert "self._start_asgi_task(" in inspect.getsource(getattr(PROTOCOL, method))
    assert "self.pipeline.pop()" in inspect.getsource(PROTOCOL.on_response_complete)
    assert "self.pipeline.appendleft((self.cycle, app))" in inspect.getsource(
        PROTOCOL.on_headers_complete
    )


def test_an_exchange_has_what_the_protocol_asks_of_a_cycle() -> None:
    methods = (
        *(PROTOCOL.on_headers_complete, PROTOCOL.on_response_complete, PROTOCOL.connection_lost),
        *(PROTOCOL.shutdown,),
    )
    used = {
        name
        for method in methods
        for name in re.findall(r"cycle\.(\w+)", inspect.getsource(method))
    }
    missing = {name for name in used if not hasattr(Exchange, name)}
    assert missing == set()


def test_the_server_keeps_its_headers_and_connections_where_we_look() -> None:
    state = ServerState()
    assert state.default_headers == []
    assert state.connections == set()
    assert state.total_requests == 0
    assert "self.server_state.default_headers = " in inspect.getsource(Server.on_tick)


def test_a_protocol_class_may_be_given_to_the_configuration() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        del scope, receive, send

    config = Config(app, http=PROTOCOL, lifespan="off", log_config=None)
    config.load()
    assert config.http_protocol_class is PROTOCOL
