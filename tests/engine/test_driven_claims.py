"""Claims of driven runs: what is not to be had, and what an earlier claim is still good for."""

from __future__ import annotations

from datetime import timedelta

from tests.engine.world import START, World

from stepwell_server.engine.claims import ClaimRun, ReleaseRun, RenewRunLease, RunClaim
from stepwell_server.engine.runs import PauseRun, ResumeRun


def claim(world: World, key: int, owner_id: str, seconds: float = 0) -> RunClaim:
    answer = world.do(ClaimRun(world.ref(key), owner_id, 5, START + timedelta(seconds=seconds)))
    assert isinstance(answer, RunClaim)
    return answer


def test_a_paused_run_is_not_to_be_had_until_it_goes_on() -> None:
    world = World()
    key = world.start(driven=True, managed=False)
    world.do(PauseRun(world.ref(key), "look"))
    assert not claim(world, key, "a").claimed
    world.do(ResumeRun(world.ref(key), accept_order=False))
    assert claim(world, key, "a").claimed
    world.check()


def test_an_earlier_claim_of_the_same_owner_holds_nothing() -> None:
    """The one process of a name that went on is told from the one that took over."""
    world = World()
    key = world.start(driven=True, managed=False)
    old, token = claim(world, key, "a").token, claim(world, key, "a", 6).token
    assert old < token
    assert not world.do(RenewRunLease(world.ref(key), "a", old, 5)).claimed
    assert world.do(ReleaseRun(world.ref(key), "a", old)) is False
    assert world.do(RenewRunLease(world.ref(key), "a", token, 5)).claimed
    assert world.do(ReleaseRun(world.ref(key), "a", token)) is True
    assert world.run(key).owner_id == ""
