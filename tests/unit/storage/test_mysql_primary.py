"""Which host is written to, decided from what each says of itself."""

import pytest

from persistence_service.errors import StorageSetupError
from persistence_service.storage.mysql.options import Address
from persistence_service.storage.mysql.primary import Choice, Membership, Sighting, View, choose

A, B, C = ("a", 3306), ("b", 3306), ("c", 3306)
_NOT_WRITABLE = Sighting(is_writable=False)
_WRITABLE = Sighting(is_writable=True)


def primary(view: int = 5, *, majority: bool = True, writable: bool = True, group: str = "g") -> Sighting:
    return Sighting(writable, Membership(is_primary=True, has_majority=majority, view=View(group, view)))


def secondary(view: int = 5, *, majority: bool = True) -> Sighting:
    return Sighting(False, Membership(is_primary=False, has_majority=majority, view=View("g", view)))


def chosen(
    a: Sighting | None, b: Sighting | None, c: Sighting | None, former: Choice | None = None, *, lossy: bool = False
) -> Choice:
    return choose(former or Choice(), {A: a, B: b, C: c}, allow_lossy=lossy)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_member_that_is_primary_is_found_whatever_the_order(place: int) -> None:
    hosts: list[Sighting | None] = [secondary(), secondary(), secondary()]
    hosts[place] = primary()
    assert chosen(hosts[0], hosts[1], hosts[2]).primary == (A, B, C)[place]


@pytest.mark.parametrize(
    "host",
    [
        primary(majority=False),  # cut off from the others
        primary(writable=False),  # elected, and still catching up
        secondary(),
        _WRITABLE,  # started, and not in its group
        None,
    ],
)
def test_nothing_less_than_a_writable_primary_with_a_majority_will_do(host: Sighting | None) -> None:
    assert chosen(host, secondary(), secondary()).primary is None
    assert chosen(host, secondary(), secondary(), lossy=True).primary is None


def test_a_primary_that_says_it_is_none_any_more_is_left_at_once() -> None:
    former = Choice(A, View("g", 5))
    assert chosen(secondary(), secondary(), None, former).primary is None
    assert chosen(primary(majority=False), None, None, former).primary is None
    assert chosen(primary(writable=False), secondary(), secondary(), former).primary is None


def test_a_silent_primary_is_kept_until_there_is_another() -> None:
    choice = Choice(A, View("g", 5))
    for misses in range(1, 10):
        choice = chosen(None, secondary(), secondary(), choice)
        assert (choice.primary, choice.misses) == (A, misses)
    choice = chosen(None, primary(6), secondary(6), choice)
    assert choice == Choice(B, View("g", 6))


def test_all_silent_is_no_reason_to_leave() -> None:
    assert chosen(None, None, None, Choice(A)).primary == A
    assert chosen(None, None, None).primary is None


def test_a_former_primary_that_still_believes_in_itself_is_not_taken_back() -> None:
    stale = primary(5)
    choice = chosen(stale, primary(7), secondary(7), Choice(A, View("g", 5)))
    assert choice.primary == B, "the newer view wins over the one in use"
    assert chosen(stale, None, None, choice).primary == B
    assert chosen(stale, secondary(7), secondary(7), choice).primary is None


def test_a_group_that_was_started_anew_counts_its_views_from_the_beginning() -> None:
    former = Choice(A, View("g", 90))
    assert chosen(secondary(), primary(1, group="later"), None, former).primary == B


@pytest.mark.parametrize("lossy", [False, True])
def test_hosts_that_were_a_group_are_waited_for_while_it_is_started_again(lossy: bool) -> None:
    former = Choice(A, View("g", 90))
    choice = chosen(_WRITABLE, _NOT_WRITABLE, _NOT_WRITABLE, former, lossy=lossy)
    assert choice == Choice(None, View("g", 90)), (
        "writable, and in no group yet: it may not be the one that is started first"
    )
    assert chosen(_NOT_WRITABLE, primary(1, group="later"), _NOT_WRITABLE, choice, lossy=lossy).primary == B


def test_two_groups_are_an_error_but_for_the_one_in_use() -> None:
    with pytest.raises(StorageSetupError, match="a:3306, b:3306"):
        chosen(primary(1, group="x"), primary(1, group="y"), None)
    assert chosen(primary(1, group="x"), primary(1, group="y"), None, Choice(B)).primary == B


def test_a_group_with_several_primaries_is_refused_whichever_of_them_is_in_use() -> None:
    """They don't respect each other's locks on rows, and two services may have chosen different ones."""
    equal = Sighting(True, Membership(is_primary=True, has_majority=True, view=View("g", 5), has_single_primary=False))
    for former in (Choice(), Choice(A, View("g", 5))):
        with pytest.raises(StorageSetupError, match=r"a:3306, b:3306.*single_primary"):
            chosen(equal, equal, None, former)
        with pytest.raises(StorageSetupError, match=r"a:3306.*single_primary"):
            chosen(equal, None, None, former)


def test_of_two_primaries_amid_a_planned_change_the_one_in_use_stays() -> None:
    assert chosen(primary(), primary(), primary()).primary == A
    assert chosen(primary(), primary(), primary(), Choice(C)).primary == C


def test_a_list_without_a_group_is_refused() -> None:
    with pytest.raises(StorageSetupError, match="allow_lossy_failover"):
        chosen(_WRITABLE, _NOT_WRITABLE, _NOT_WRITABLE)
    assert chosen(_WRITABLE, _NOT_WRITABLE, None).primary is None, "the silent one may be of a group"


def test_without_a_group_the_writable_host_is_the_primary_if_that_was_allowed() -> None:
    assert chosen(_NOT_WRITABLE, _WRITABLE, None, lossy=True).primary == B
    with pytest.raises(StorageSetupError, match="a:3306, b:3306"):
        chosen(_WRITABLE, _WRITABLE, None, lossy=True)


def test_without_a_group_a_silent_primary_is_left_the_second_time() -> None:
    choice = chosen(None, _WRITABLE, None, Choice(A), lossy=True)
    assert choice.primary == A
    choice = chosen(None, _WRITABLE, None, choice, lossy=True)
    assert choice.primary == B


def test_an_answer_in_between_counts_the_silence_anew() -> None:
    choice = chosen(None, _NOT_WRITABLE, None, Choice(A), lossy=True)
    choice = chosen(_WRITABLE, _NOT_WRITABLE, None, choice, lossy=True)
    assert choice == Choice(A)


def test_members_of_a_group_go_before_hosts_outside_of_it() -> None:
    stray: dict[Address, Sighting | None] = {A: _WRITABLE, B: primary(), C: secondary()}
    assert choose(Choice(), stray, allow_lossy=True).primary == B
