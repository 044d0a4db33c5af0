"""The shared state directory: one JSON file per fact, one writer per file.

Readers tolerate a missing, partial or newer file and a stale NFS handle, and get None. Writers
replace whole files, so that no reader sees half a file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.errors import StateError
from hpc.model import Endpoint, GatewayRecord, JobHandle, ServiceSpec
from hpc.state import trust
from hpc.state.files import make_folder, read_secret, write_text
from hpc.state.records import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Iterator


SECRET_BYTES = 32
BEAT_S = 5.0
"""Seconds between two heartbeats of a replica or gateway."""
STALE_S = 45.0
"""Age in seconds at which a heartbeat proves no life; covers an NFS client's attribute cache."""


def home(override: str | None = None) -> Path:
    """Return the state directory, made private to its owner.

    Args:
        override: a folder that overrides ``HPC_SERVE_HOME``, which overrides ``XDG_STATE_HOME``.

    Raises:
        StateError: the folder cannot be made, belongs to another user, or is not safe from
            others; or a secret in it is not.
    """
    chosen = override or os.environ.get("HPC_SERVE_HOME")
    root = Path(chosen) if chosen else _states() / "hpc-serve"
    root = root.expanduser().absolute()
    try:
        _check_way(root)
        if not root.is_dir():
            make_folder(root)
            _check_way(root)  # of what somebody may have made at the same time
        owner, ours = root.stat().st_uid, _our_uid()
        if owner == ours:
            root.chmod(0o700)
            _check_secrets(root)
    except OSError as error:
        raise StateError(f"cannot use the state directory {root}: {error.strerror}") from error
    if owner != ours:
        raise StateError(f"the state directory {root} belongs to uid {owner}, not to you")
    return root


def _check_way(root: Path) -> None:
    """Refuse a state directory that foreign users could replace."""
    weak = trust.weak_folder(root)
    if weak is not None:
        other = "choose another folder by HPC_SERVE_HOME"
        raise StateError(
            f"the state directory {root} is not safe from other users: {weak.text}",
            hint=f"{weak.repair}, or {other}" if weak.repair else other,
        )


def _check_secrets(root: Path) -> None:
    """Refuse state with a secret or gateway record that others could have read or written.

    ``keys.yaml`` is checked by ``hpc.keys.store`` at each reading.
    """
    paths = [owner_key_path(root), batch_token_secret_path(root)]
    paths += gateway_dir(root, "").glob("*/gateway.json")
    paths += (root / "services").glob("*/replicas/*/secret")
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            weak = trust.weak_secret(path, path.lstat())
            if weak is not None:
                raise StateError(f"{weak.text} and is not used", hint=weak.repair)


def _states() -> Path:
    """Return the user's folder for state, by the XDG Base Directory Specification 0.8."""
    named = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored: each working directory would have its own state.
    return Path(named) if Path(named).is_absolute() else Path.home() / ".local/state"


def _our_uid() -> int:
    """Return our user id; Windows has none and reports 0 for every file."""
    return os.getuid() if hasattr(os, "getuid") else 0


def service_dir(root: Path, service: str) -> Path:
    """Return the folder of a service."""
    return root / "services" / service


def replica_dir(root: Path, service: str, replica: int) -> Path:
    """Return the folder of a replica, counted from 0."""
    return service_dir(root, service) / "replicas" / str(replica)


def jobs_dir(root: Path, service: str) -> Path:
    """Return submitit's folder for a service: scripts, pickles and logs."""
    return service_dir(root, service) / "jobs"


def secret_path(root: Path, service: str, replica: int) -> Path:
    """Return the file with the key of a replica's sidecar."""
    return replica_dir(root, service, replica) / "secret"


def engine_log(root: Path, service: str, replica: int) -> Path:
    """Return the log of a replica's engine."""
    return replica_dir(root, service, replica) / "engine.log"


def batches_dir(root: Path) -> Path:
    """Return the folder of all batches."""
    return root / "batches"


def batch_dir(root: Path, batch: str) -> Path:
    """Return the folder of a batch; ``hpc.batch.folder`` knows the names in it."""
    return batches_dir(root) / batch


def schedules_dir(root: Path) -> Path:
    """Return the folder of the recurring batches."""
    return root / "schedules"


def plain_job_dir(root: Path, name: str) -> Path:
    """Return submitit's folder for jobs without a service, by their name."""
    return root / "jobs" / name


def stored_files_dir(root: Path, key: str) -> Path:
    """Return the folder of the files that clients of a key stored, by the key's id."""
    return root / "files" / key


def batch_records_dir(root: Path, key: str) -> Path:
    """Return the folder of the batch records of a key, by the key's id."""
    return root / "openai-batches" / key


def open_batches_dir(root: Path) -> Path:
    """Return the folder with a mark for each batch record that is not closed."""
    return root / "openai-batches" / "open"


def processor_lock_path(root: Path, hostname: str) -> Path:
    """Return the heartbeat of a machine's batch processor; beside it is its lock."""
    return root / "openai-batches" / "processors" / hostname


def connections_dir(root: Path) -> Path:
    """Return the folder with the records of the user's tunnels."""
    return root / "connections"


def batch_token_secret_path(root: Path) -> Path:
    """Return the file with the secret that signs batch tokens."""
    return root / "batch.key"


def batch_tokens_dir(root: Path) -> Path:
    """Return the folder with a mark for each batch whose tokens are good."""
    return root / "batch-tokens"


def images_dir(root: Path) -> Path:
    """Return the folder of built container images."""
    return root / "images"


def keys_path(root: Path) -> Path:
    """Return the file with the hashes of client keys."""
    return root / "keys.yaml"


def gateway_dir(root: Path, hostname: str) -> Path:
    """Return the folder of the gateway of a machine."""
    return root / "gateways" / hostname


def owner_key_path(root: Path) -> Path:
    """Return the file with the key of the owner's own tunnels."""
    return root / "owner.key"


def save_spec(root: Path, spec: ServiceSpec) -> None:
    """Record the specification of a service."""
    write_record(service_dir(root, spec.name) / "spec.json", spec)


def load_spec(root: Path, service: str) -> ServiceSpec | None:
    """Return the specification of a service, or None."""
    return read_record(service_dir(root, service) / "spec.json", ServiceSpec)


def save_job(root: Path, service: str, replica: int, job: JobHandle) -> None:
    """Record the job of a replica."""
    write_record(replica_dir(root, service, replica) / "job.json", job)


def load_job(root: Path, service: str, replica: int) -> JobHandle | None:
    """Return the job of a replica, or None."""
    return read_record(replica_dir(root, service, replica) / "job.json", JobHandle)


def save_endpoint(root: Path, endpoint: Endpoint) -> None:
    """Publish a replica's endpoint record; called on the replica's node only."""
    folder = replica_dir(root, endpoint.service, endpoint.replica)
    write_record(folder / "endpoint.json", endpoint)


def load_endpoint(root: Path, service: str, replica: int) -> Endpoint | None:
    """Return a replica's last endpoint record, or None."""
    return read_record(replica_dir(root, service, replica) / "endpoint.json", Endpoint)


def new_secret(root: Path, service: str, replica: int) -> str:
    """Make a fresh key for a replica's sidecar, readable by its owner only."""
    secret = secrets.token_urlsafe(SECRET_BYTES)
    write_text(secret_path(root, service, replica), secret)
    return secret


def load_secret(root: Path, service: str, replica: int) -> str | None:
    """Return the key of a replica's sidecar; None for no key, and for one open to others."""
    with contextlib.suppress(StateError):
        text = read_secret(secret_path(root, service, replica))
        return text.strip() if text else None
    return None


def drop_secret(root: Path, service: str, replica: int) -> None:
    """Remove the key of a replica's sidecar."""
    with contextlib.suppress(OSError):
        secret_path(root, service, replica).unlink(missing_ok=True)


def save_gateway(root: Path, record: GatewayRecord) -> None:
    """Publish a gateway's record; called by the gateway only."""
    write_record(gateway_dir(root, record.hostname) / "gateway.json", record)


def load_gateway(root: Path, hostname: str) -> GatewayRecord | None:
    """Return the record of a machine's gateway, or None."""
    return read_record(gateway_dir(root, hostname) / "gateway.json", GatewayRecord)


def drop_gateway(root: Path, hostname: str) -> None:
    """Remove the record of a gateway that has ended."""
    with contextlib.suppress(OSError):
        (gateway_dir(root, hostname) / "gateway.json").unlink(missing_ok=True)


def services(root: Path) -> list[str]:
    """Return the names of all services, sorted."""
    try:
        found = sorted(p.name for p in (root / "services").iterdir() if p.is_dir())
    except OSError:
        return []
    return [name for name in found if not name.startswith(".")]


def replicas(root: Path, service: str) -> Iterator[int]:
    """Yield the replica numbers of a service."""
    spec = load_spec(root, service)
    yield from range(spec.replicas if spec else 0)


def endpoints(root: Path, service: str) -> list[Endpoint]:
    """Return the last endpoint records of a service's replicas."""
    found = (load_endpoint(root, service, n) for n in replicas(root, service))
    return [endpoint for endpoint in found if endpoint is not None]


def drop_service(root: Path, service: str) -> None:
    """Remove all records of a service.

    Raises:
        StateError: a file could not be removed.
    """
    folder = service_dir(root, service)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StateError(f"cannot remove {folder}: {error.strerror}") from error
