"""Which of several hosts is the primary: a decision on values, from what each host has said of itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.options import Address

_MISSES = 2
_REACHED = {"ONLINE", "RECOVERING"}  # the others count for the majority, and don't answer


def is_majority(states: Collection[str]) -> bool:
    """Whether members in these states, which are all that a group has, can decide something."""
    return 2 * sum(state in _REACHED for state in states) > len(states)


@dataclass(frozen=True, slots=True)
class View:
    """One membership of a group: `number` rises with each change for as long as the group lives, `group` is its birth."""

    group: str
    number: int

    def is_before(self, other: View | None) -> bool:
        return other is not None and self.group == other.group and self.number < other.number


@dataclass(frozen=True, slots=True)
class Membership:
    """A host's place in its group as it sees it. A majority is of the members that it reaches, itself among them."""

    is_primary: bool
    has_majority: bool
    view: View | None = None
    has_single_primary: bool = True


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a host answered; `membership` is None where it is in no group now."""

    is_writable: bool
    membership: Membership | None = None

    @property
    def leads_a_group(self) -> bool:
        member = self.membership
        return self.is_writable and member is not None and member.is_primary and member.has_majority


@dataclass(frozen=True, slots=True)
class Choice:
    """The primary now, None while there is none; the latest view that had it; in how many looks it gave no answer since."""

    primary: Address | None = None
    view: View | None = None
    misses: int = 0


def choose(former: Choice, seen: Mapping[Address, Sighting | None], *, allow_lossy: bool) -> Choice:
    """Decide anew. `seen` has every host in the order of the settings, with None where it gave no answer.

    In a group it is the member that is primary, writable, and with a majority. A host that was cut off or frozen still takes
    itself for the primary, with everyone online: its view is older, so it is not taken back. A primary that is silent is kept
    until there is another: it may only be slow, and the connections to it have limits of their own. Hosts that once were a group
    are one that is being started while none of them is in it, and what is written to one of them then would be lost.

    Raises:
        StorageSetupError: nobody can say which host to write to.
    """
    silent = former.primary is not None and seen.get(former.primary) is None
    misses = former.misses + 1 if silent else 0
    if any(host is not None and host.membership is not None for host in seen.values()):
        found = _of_group(former, seen)
    elif former.view is not None:
        found = None
    elif not allow_lossy:
        _check_is_group(seen)
        found = None
    elif silent and misses < _MISSES:
        found = None
    else:
        found = _of_loners(seen)
    if found is not None:
        host = seen[found]
        view = host.membership.view if host is not None and host.membership is not None else None
        return Choice(found, view or former.view)
    return Choice(former.primary if silent else None, former.view, misses)


def _of_group(former: Choice, seen: Mapping[Address, Sighting | None]) -> Address | None:
    primaries: dict[Address, View | None] = {}
    equal: list[Address] = []
    for address, host in seen.items():
        if host is None or host.membership is None or not host.leads_a_group:
            continue
        view = host.membership.view
        if view is None or not view.is_before(former.view):
            primaries[address] = view
            if not host.membership.has_single_primary:
                equal.append(address)
    if equal:
        raise StorageSetupError(
            "the replication group has several primaries, which don't respect each other's locks on rows: "
            f"{_names(equal)}; run SELECT group_replication_switch_to_single_primary_mode()"
        )
    views = [view for view in primaries.values() if view is not None]
    newest = [
        address
        for address, view in primaries.items()
        if view is None or not any(view.is_before(other) for other in views)
    ]
    if former.primary in newest:  # of two, if it was asked just before it handed over to the other
        return former.primary
    if len({view.group for address in newest if (view := primaries[address]) is not None}) > 1:
        raise StorageSetupError(
            "the hosts of database.host belong to different replication groups, each with a primary of its own: "
            f"{_names(newest)}; name the members of one group only, or mend the group that was started twice"
        )
    return next(iter(newest), None)


def _of_loners(seen: Mapping[Address, Sighting | None]) -> Address | None:
    writable = [address for address, host in seen.items() if host is not None and host.is_writable]
    if len(writable) > 1:
        raise StorageSetupError(
            f"several hosts of database.host can be written, and they are no replication group: {_names(writable)}; "
            "make all but the primary read-only"
        )
    return next(iter(writable), None)


def _check_is_group(seen: Mapping[Address, Sighting | None]) -> None:
    if all(host is not None for host in seen.values()):
        raise StorageSetupError(
            f"no host of database.host is in a replication group: {_names(list(seen))}; start Group Replication, name one "
            "host only, or set database.allow_lossy_failover if stored records may be lost in a failover"
        )


def _names(addresses: list[Address]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in addresses)
