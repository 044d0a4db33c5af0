"""The example notebook, run by Jupyter's own client through a real tunnel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.fakes.login_node import KEY, LoginNode, shared_node, until
from tests.waits import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    yield from shared_node(tmp_path_factory)


@pytest.mark.parametrize("transport", ["openssh", "paramiko"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs(
    node: LoginNode, transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = node.login()
    options = {
        "identity": str(login.identity),
        "ssh_config": str(login.config),
        "ssh_options": [f"{key}={value}" for key, value in login.options],
        "transport": transport,
    }
    monkeypatch.setenv("HPC_SERVE_HOME", str(tmp_path / "laptop"))
    monkeypatch.setenv("HPC_SERVE_LOGIN", str(login))
    monkeypatch.setenv("HPC_SERVE_CONNECT_OPTIONS", json.dumps(options))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    notebook = nbformat.read(PROJECT / "examples/notebook.ipynb", as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=PATIENCE_S).execute()
    shown = [text for cell in notebook.cells for text in outputs(cell)]
    assert any(f"<hpc.connect {login}: http://127.0.0.1:" in text for text in shown)
    assert "['demo']" in shown
    assert "demo|Who|wrote|Emma?|" in shown
    assert "200" in shown
    assert shown[-1].endswith("closed>")
    assert KEY not in "".join(shown)
    until(lambda: not node.clients(), "no ssh process is left")


def outputs(cell: Any) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        yield output.get("text") or output.get("data", {}).get("text/plain", "")
