"""The user's accounts and QOS, and the partitions that take jobs of the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpc.errors import CommandError
from hpc.slurm.command import run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ALL = "all"


@dataclass(frozen=True, slots=True)
class Association:
    """A permission to submit, in Slurm's accounting.

    Attributes:
        account: account that is charged, in lower case as in the accounting.
        partition: the only partition of the permission; "" is all.
        qos: allowed QOS.
        default_qos: QOS of a job that names none; "" is the site's.
    """

    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default_qos: str = ""


@dataclass(frozen=True, slots=True)
class Permissions:
    """The permissions of one user.

    Attributes:
        groups: names of the user's groups.
        associations: entries of the accounting; empty where none answers.
        default_account: account of a job that names none, or None.
        partitions: settings of each partition, as ``scontrol show partition`` names them.
    """

    groups: frozenset[str] = frozenset()
    associations: tuple[Association, ...] = ()
    default_account: str | None = None
    partitions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def opens(self, partition: str) -> bool:
        """Return whether a partition takes jobs of the user, as far as is known."""
        rules = self.partitions.get(partition, {})
        if rules.get("RootOnly") == "YES" or rules.get("ReqResv") == "YES":
            return False
        if not _passes(self.groups, rules.get("AllowGroups"), None):
            return False
        return not self.associations or bool(self.accounts(partition))

    def accounts(self, partition: str) -> tuple[str, ...]:
        """Return the accounts that a partition takes, the default account first."""
        rules = self.partitions.get(partition, {})
        found = [
            one.account
            for one in self.associations
            if one.partition in ("", partition)
            and _passes({one.account}, rules.get("AllowAccounts"), rules.get("DenyAccounts"))
            and (not one.qos or self._qos(one, partition))
        ]
        found.sort(key=lambda account: account != self.default_account)
        return tuple(dict.fromkeys(found))

    def needed_account(self, partition: str) -> str | None:
        """Return the account to name for a partition; None if the default account is taken."""
        account = next(iter(self.accounts(partition)), None)
        return None if account == self.default_account else account

    def needed_qos(self, partition: str) -> str | None:
        """Return the QOS to name for a partition; None if the default QOS is taken."""
        rules = self.partitions.get(partition, {})
        if rules.get("AllowQos", ALL).lower() == ALL and "DenyQos" not in rules:
            return None
        account = next(iter(self.accounts(partition)), None)
        for one in self.associations:
            if one.account == account and one.partition in ("", partition):
                taken = self._qos(one, partition)
                return taken[0] if taken and taken[0] != one.default_qos else None
        return None

    def _qos(self, one: Association, partition: str) -> tuple[str, ...]:
        rules = self.partitions.get(partition, {})
        allow, deny = rules.get("AllowQos"), rules.get("DenyQos")
        found = [qos for qos in one.qos if _passes({qos}, allow, deny)]
        return tuple(sorted(found, key=lambda qos: qos != one.default_qos))


def permissions(user: str, groups: Collection[str], cluster: str | None) -> Permissions:
    """Return the permissions of a user; unanswered questions leave their parts empty.

    Args:
        user: name of the user.
        groups: names of the user's groups.
        cluster: name of the cluster in the accounting, which may hold several; None is any.
    """
    shown = ["sacctmgr", "--noheader", "--parsable2", "show"]
    fields = "format=Account,Partition,QOS,DefaultQOS"
    where = [f"user={user}", *([f"cluster={cluster}"] if cluster else [])]
    rows = _rows([*shown, "associations", *where, fields])
    account = next(iter(_rows([*shown, "users", user, "format=DefaultAccount"])), [""])[0]
    found = (_association(row) for row in rows)
    return Permissions(
        frozenset(groups),
        tuple(dict.fromkeys(one for one in found if one.account)),
        account or None,
        _partitions(),
    )


def _association(row: list[str]) -> Association:
    account, partition, qos, default, *_ = (*row, "", "", "", "")
    return Association(account, partition, tuple(filter(None, qos.split(","))), default)


def _rows(argv: list[str]) -> list[list[str]]:
    try:
        text = run(argv).stdout
    except CommandError:
        return []
    return [line.strip().split("|") for line in text.splitlines() if line.strip()]


def _partitions() -> dict[str, dict[str, str]]:
    try:
        text = run(["scontrol", "--oneliner", "show", "partition"]).stdout
    except CommandError:
        return {}
    found = [
        dict(word.split("=", 1) for word in line.split() if "=" in word)
        for line in text.splitlines()
    ]
    return {rules["PartitionName"]: rules for rules in found if "PartitionName" in rules}


def _passes(names: Collection[str], allow: str | None, deny: str | None) -> bool:
    """Return whether Slurm's lists let one of several names in; without names none is known."""
    ours = {name.lower() for name in names}  # the accounting's names are in lower case
    allowed = set((allow or ALL).lower().split(","))
    denied = set((deny or "").lower().split(","))
    left = ours - denied
    return not ours or (bool(left) and (ALL in allowed or bool(left & allowed)))
