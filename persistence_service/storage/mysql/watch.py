"""Follows the primary among several hosts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog

from persistence_service.errors import PersistenceError, StorageSetupError, StorageUnavailable
from persistence_service.storage.mysql.options import Address, MysqlOptions
from persistence_service.storage.mysql.primary import Choice, Sighting, choose
from persistence_service.storage.mysql.probe import HostProbe

_log = structlog.get_logger(__name__)

_LOOK_S = 1.5
_PROMPT_S = 0.3
_SETUP_PAUSE_S = 5.0  # while a person must act: a server may lock an account after too many wrong passwords
_PAUSE_S = 0.4  # between looks while there is no primary, or a doubt; an election takes seconds


class PrimaryWatch:
    """Looks at all hosts at once: every `check_interval_s`, at once on `doubt`, and again and again while no primary answers."""

    def __init__(self, options: MysqlOptions, on_change: Callable[[], None]) -> None:
        self._options = options
        self._on_change = on_change
        self._probes = {address: HostProbe(options, address) for address in options.addresses}
        self._choice = Choice()
        self._trouble: PersistenceError = StorageUnavailable("the primary is not known yet")
        self._doubted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def primary(self) -> Address | None:
        return self._choice.primary

    @property
    def trouble(self) -> PersistenceError:
        """Why there is no primary, to be raised; of use while `primary` is None."""
        number = getattr(self._trouble, "number", None)
        kind = StorageSetupError if isinstance(self._trouble, StorageSetupError) else StorageUnavailable
        return kind(str(self._trouble), number=number)

    async def open(self) -> None:
        """Find the primary, and follow it from now on.

        Raises:
            StorageUnavailable: there is none now; may be called again.
            StorageSetupError: a person must act first.
        """
        await self._look(self._options.connect_timeout_s)
        if self.primary is None:
            self._close_probes()
            raise self.trouble
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        self._choice = Choice(None, self._choice.view)
        self._close_probes()

    def doubt(self) -> None:
        """Something failed that a change of primary would explain: look now."""
        self._doubted.set()

    def _close_probes(self) -> None:
        for probe in self._probes.values():
            probe.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S if not isinstance(self._trouble, StorageSetupError) else _SETUP_PAUSE_S)
            if self.primary is not None and not self._choice.misses:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._options.check_interval_s - _PAUSE_S)):
                        await self._doubted.wait()
            self._doubted.clear()
            try:
                await self._look(_LOOK_S)
            except Exception:  # noqa: BLE001  # a mistake here must not end it: it is the supervision point of this loop
                _log.exception("mysql.watch_failed")

    async def _look(self, limit_s: float) -> None:
        answers = await self._ask_all(limit_s)
        seen = {address: answer if isinstance(answer, Sighting) else None for address, answer in answers.items()}
        try:
            choice = choose(self._choice, seen, allow_lossy=self._options.allow_lossy_failover)
            trouble = _trouble(answers)
        except StorageSetupError as exc:
            choice, trouble = Choice(None, self._choice.view), exc
        self._trouble = trouble
        former, self._choice = self._choice, choice
        if choice.primary != former.primary:
            self._tell(former.primary)
            self._on_change()

    async def _ask_all(self, limit_s: float) -> dict[Address, Sighting | BaseException]:
        """Everyone at once. Who is slow is not waited for when a primary of a group has answered."""
        looks = {address: asyncio.create_task(probe.look(limit_s)) for address, probe in self._probes.items()}
        try:
            await asyncio.wait(looks.values(), timeout=_PROMPT_S)
            if not any(_answered(look) and look.result().leads_a_group for look in looks.values()):
                await asyncio.wait(looks.values())
        finally:
            for look in looks.values():
                look.cancel()
        found = await asyncio.gather(*looks.values(), return_exceptions=True)
        for answer in found:
            if isinstance(answer, Exception) and not isinstance(answer, PersistenceError):
                _log.error("mysql.probe_failed", exc_info=answer)
        return dict(zip(looks, found, strict=True))

    def _tell(self, former: Address | None) -> None:
        if self.primary is None:
            _log.warning("mysql.primary_lost", former=_name(former), reason=str(self._trouble))
        else:
            _log.info("mysql.primary_found", primary=_name(self.primary), former=_name(former))


def _answered(look: asyncio.Task[Sighting]) -> bool:
    return look.done() and look.exception() is None


def _trouble(answers: Mapping[Address, Sighting | BaseException]) -> PersistenceError:
    """Why there is no primary: what a person must mend if no host can be asked for that, else what will pass."""
    failures = {address: answer for address, answer in answers.items() if isinstance(answer, PersistenceError)}
    setup = next((failure for failure in failures.values() if isinstance(failure, StorageSetupError)), None)
    if setup is not None and len(failures) == len(answers):
        return setup
    silent = ", ".join(f"{_name(address)}: {failure}" for address, failure in failures.items())
    return StorageUnavailable(
        "no host of database.host is known to be the primary now: an election goes on, the majority is lost, the group is not "
        f"started, or it can't be asked{f' ({silent})' if silent else ''}"
    )


def _name(address: Address | None) -> str | None:
    return None if address is None else f"{address[0]}:{address[1]}"
