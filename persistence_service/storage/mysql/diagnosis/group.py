"""The replication group that the hosts are, or should be."""

from __future__ import annotations

from pymysql.constants import ER

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.diagnosis.host import Host, is_on
from persistence_service.storage.mysql.primary import is_majority
from persistence_service.storage.powers import Finding, Level

_MEMBERS = (
    "SELECT member_host, member_port, member_state, member_role FROM performance_schema.replication_group_members "
    "WHERE member_state <> 'OFFLINE'"
)
_FEWEST = 3


async def group_findings(host: Host) -> list[Finding]:
    """The group as this host sees it; nothing where a single server is meant to be alone."""
    if not host.variables.get("group_replication_group_name"):
        return [] if len(host.options.addresses) == 1 else [_no_group(host)]
    try:
        members = await host.rows(_MEMBERS)
    except StorageSetupError as exc:
        if exc.number != ER.TABLEACCESS_DENIED_ERROR:
            raise
        return [_unseen(host)]
    if not members:
        return [_left(host)]
    return [_members(host, [(str(state), str(role)) for _, _, state, role in members]), _consistency(host)]


def _no_group(host: Host) -> Finding:
    if host.options.allow_lossy_failover:
        return Finding(
            "group",
            Level.WARNING,
            "there is no replication group: a failover may lose what was stored (database.allow_lossy_failover)",
            "Set up Group Replication if that must not be.",
        )
    return Finding(
        "group",
        Level.PROBLEM,
        "several hosts are named, and this one is in no replication group",
        "Set up Group Replication, name one host only, or accept losses with database.allow_lossy_failover.",
    )


def _unseen(host: Host) -> Finding:
    account = host.options.user
    return Finding(
        "group",
        Level.PROBLEM,
        f"the account {account} can't see the group's members, so the primary can't be found",
        f"GRANT SELECT ON performance_schema.* TO '{account}'@…;",
    )


def _left(host: Host) -> Finding:
    return Finding(
        "group",
        Level.PROBLEM if len(host.options.addresses) == 1 else Level.WARNING,
        "the server belongs to a replication group and is not in it now",
        "Let it rejoin: START GROUP_REPLICATION; then look into its error log if it does not stay.",
    )


def _members(host: Host, members: list[tuple[str, str]]) -> Finding:
    online = [role for state, role in members if state == "ONLINE"]
    primaries = online.count("PRIMARY")
    detail = f"{len(online)} of {len(members)} members online, {primaries} primary"
    if not is_majority([state for state, _ in members]):
        return Finding(
            "group",
            Level.PROBLEM,
            f"{detail}: no majority, so nothing can be written",
            "Bring members back; only if they are lost for good, see group_replication_force_members.",
        )
    if primaries > 1 or not is_on(host.variables.get("group_replication_single_primary_mode")):
        return Finding(
            "group",
            Level.PROBLEM,
            f"{detail}: the service uses no group with several primaries, which don't respect each other's locks on rows",
            "Run SELECT group_replication_switch_to_single_primary_mode();",
        )
    if not primaries:
        return Finding("group", Level.WARNING, f"{detail}: one is being elected", "Run this again in some seconds.")
    if len(online) < _FEWEST:
        return Finding(
            "group",
            Level.WARNING,
            f"{detail}: one more loss and nothing can be written",
            "Bring back the members that are away, or add some: three survive the loss of one.",
        )
    if len(host.options.addresses) < len(members):
        return Finding(
            "group",
            Level.WARNING,
            f"{detail}, and database.host names {len(host.options.addresses)} of them: a failover to another is not followed",
            "Name every member in database.host.",
        )
    return Finding("group", Level.OK, detail)


def _consistency(host: Host) -> Finding:
    level = host.variables.get("group_replication_consistency", "")
    if level == "EVENTUAL":
        return Finding(
            "group consistency",
            Level.WARNING,
            "EVENTUAL: right after a failover reads may miss what was stored just before",
            "SET PERSIST group_replication_consistency = 'BEFORE_ON_PRIMARY_FAILOVER'; on every member.",
        )
    return Finding("group consistency", Level.OK, level)
