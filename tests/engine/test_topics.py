"""Topics for the code of runs: waits that were there get the event, later ones what is kept, none the same twice."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.engine.code import Code, json, local
from tests.engine.mended import do, replayed, retry, rewind
from tests.engine.repaired import do as repair
from tests.engine.repaired import skip
from tests.engine.world import MAIN, World

from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.progress import ProgressAnswer
from stepwell_server.engine.reported import End, NewTopicWait, NewWait, Successor
from stepwell_server.engine.runs import CancelRun, LookAtRun, PauseRun, TerminateRun
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.timers import FireStep
from stepwell_server.engine.topic_waits import BringEvents
from stepwell_server.model.events import EventType, unpack_attributes
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.runs import Phase, RunDetails
from stepwell_server.model.steps import RetryPolicy, result_event
from stepwell_server.model.topics import TopicEvent, stripe_of

WAIT = NewTopicWait("paid")


class Topics:
    """A world with the topic `paid`, to which a test plays the leader."""

    def __init__(self) -> None:
        self.world = World()
        self.store = self.world.store.topics

    def publish(self, text: str, retain: float | None = None) -> TopicEvent:
        until = None if retain is None else self.world.now + timedelta(seconds=retain)
        return self.store.publish(MAIN, "paid", Payload(1, text.encode(), {"k": "v"}), until)

    def bring(self, key: int, *events: TopicEvent) -> bool:
        took = self.world.do(BringEvents(self.world.ref(key), "paid", events))
        self.world.check()
        return bool(took)

    def results(self, key: int, *ordinals: int) -> list[bytes | None]:
        """What waits came to; an open one has nothing yet."""
        events = {event.number: event for event in self.world.events(key)}
        return [
            events[result_event(self.world.ended(key, each))].payload
            if (key, each) in self.world.store.closed_steps
            else None
            for each in ordinals
        ]


@pytest.fixture
def topics() -> Topics:
    return Topics()


def wait(code: Code, count: int = 1) -> ProgressAnswer:
    return code.send(*(code.call("paid", WAIT) for _ in range(count)), waiting=True, resident=True)


def test_an_event_ends_the_waits_that_were_there(topics: Topics) -> None:
    """All of the run, each with a copy of its own in the history; and the code hears."""
    key = topics.world.start()
    wait(Code(topics.world, key), 2)
    assert topics.bring(key, topics.publish("1"))
    assert topics.results(key, 1, 2) == [b"1", b"1"]
    assert topics.world.run(key).phase == Phase.RUNNING
    (first, _) = [event for event in topics.world.events(key) if event.type == EventType.TOPIC_RECEIVED]
    attributes = unpack_attributes(first.attributes)
    assert attributes.facts == {"topic": "paid", "topic_event": "1", "ordinal": "1"}
    assert attributes.metadata == {"k": "v"}
    assert not topics.store.waits


def test_however_often_it_is_brought_a_wait_gets_the_first_after_it_began(topics: Topics) -> None:
    """Neither one from before, nor the second when the first was brought late."""
    topics.publish("0")
    key = topics.world.start()
    code = Code(topics.world, key)
    wait(code)
    events = [TopicEvent(1, None), topics.publish("1"), topics.publish("2")]
    assert not topics.bring(key, events[0])
    assert topics.bring(key, *events)
    assert topics.results(key, 1) == [b"1"]
    assert not topics.bring(key, *events)
    wait(code)
    assert not topics.bring(key, *events)
    assert topics.results(key, 2) == [None]
    assert topics.bring(key, *events, topics.publish("3"))
    assert topics.results(key, 2) == [b"3"]


def test_a_later_wait_gets_what_is_kept_and_each_event_once(topics: Topics) -> None:
    """The earliest that the run has not had, whoever gave it those before; until its time is over."""
    for text in "123":
        topics.publish(text, retain=10)
    topics.publish("not kept")
    key = topics.world.start()
    code = Code(topics.world, key)
    answer = wait(code)
    assert [each.payload for each in answer.ended] == [None]
    wait(code)
    assert topics.results(key, 1, 2) == [b"1", b"2"]
    topics.world.advance(11)
    wait(code)
    assert topics.results(key, 3) == [None]
    kept = topics.publish("5", retain=10)
    assert topics.bring(key, kept)
    wait(code)
    assert topics.results(key, 3, 4) == [b"5", None]
    topics.world.check()


@pytest.mark.parametrize("count", [4, 5, 9])
def test_one_progress_may_wait_for_many(topics: Topics, count: int) -> None:
    """More than are looked at together; those for which nothing is kept wait on."""
    for number in range(count):
        topics.publish(str(number), retain=10)
    key = topics.world.start()
    assert len(wait(Code(topics.world, key), count + 1).ended) == count
    assert topics.results(key, *range(1, count + 2)) == [*(str(number).encode() for number in range(count)), None]
    topics.world.check()


def test_many_waits_look_at_their_topic_a_few_times(topics: Topics) -> None:
    """Each look is a round of the whole progress, and of statements."""
    for number in range(200):
        topics.publish(str(number), retain=10)
    assert len(wait(Code(topics.world, topics.world.start()), 201).ended) == 200
    assert topics.store.looks == 2


def test_a_wait_whose_topic_is_being_looked_at_comes_again(topics: Topics) -> None:
    """Nothing of its progress is recorded meanwhile; others of the batch are not held up."""
    keys = [topics.world.start() for _ in range(2)]
    codes = [Code(topics.world, key) for key in keys]
    busy = codes[0].message(codes[0].call("l", local()), codes[0].call("paid", WAIT), waiting=True)
    topics.store.busy = {stripe_of(MAIN, "paid")}
    other = codes[1].message(codes[1].call("l", local()))
    answers = topics.world.batch(busy, other)
    assert answers[0] is HELD
    assert isinstance(answers[1], ProgressAnswer)
    assert topics.world.run(keys[0]).last_step == 0
    topics.store.busy = set()
    assert isinstance(topics.world.do(busy), ProgressAnswer)
    topics.world.check()


def test_a_timeout_is_told_apart_and_the_event_that_comes_late_reaches_nobody(topics: Topics) -> None:
    key = topics.world.start()
    code = Code(topics.world, key)
    code.run("paid", NewTopicWait("paid", timeout_seconds=5), waiting=True, resident=True)
    topics.world.advance(5)
    assert topics.world.do(FireStep(topics.world.ref(key), 1)) is True
    assert topics.world.ended(key, 1).timed_out
    assert not topics.bring(key, topics.publish("1"))
    wait(code)
    assert topics.results(key, 2) == [None]


def test_an_event_published_before_the_timeout_comes_before_it(topics: Topics) -> None:
    """However late it is brought: nothing comes of the timeout, which would have been told of what was in time."""
    topics.publish("0", retain=100)
    key = topics.world.start()
    code = Code(topics.world, key)
    wait(code)
    code.run("paid", NewTopicWait("paid", timeout_seconds=5), waiting=True, resident=True)
    event = topics.publish("1")
    topics.world.advance(6)
    assert topics.world.do(FireStep(topics.world.ref(key), 2)) is False
    topics.world.check()
    assert topics.bring(key, event)
    assert topics.results(key, 2) == [b"1"]
    assert not topics.world.ended(key, 2).timed_out


def test_a_timeout_waits_while_somebody_looks_at_the_topic(topics: Topics) -> None:
    key = topics.world.start()
    Code(topics.world, key).run("paid", NewTopicWait("paid", timeout_seconds=5), waiting=True, resident=True)
    topics.world.advance(5)
    fire = FireStep(topics.world.ref(key), 1)
    topics.store.busy = {stripe_of(MAIN, "paid")}
    assert topics.world.batch(fire) == [HELD]
    topics.store.busy = set()
    assert topics.world.do(fire) is True


def test_signals_and_topics_of_one_name_are_two_things(topics: Topics) -> None:
    key = topics.world.start()
    code = Code(topics.world, key)
    code.send(code.call("t", WAIT), code.call("s", NewWait("paid")), waiting=True, resident=True)
    topics.world.do(SignalRun(topics.world.ref(key), "paid", json('"signal"')))
    assert topics.results(key, 1, 2) == [None, b'"signal"']
    topics.bring(key, topics.publish("1"))
    assert topics.results(key, 1) == [b"1"]


@pytest.mark.parametrize("how", ["ended", "terminated", "cancelled"])
def test_what_ends_a_wait_or_its_run_forgets_it(topics: Topics, how: str) -> None:
    world = topics.world
    key = world.start()
    code = Code(world, key)
    wait(code)
    if how == "terminated":
        world.do(TerminateRun(world.ref(key), "why"))
    elif how == "ended":
        code.end()
    else:
        world.do(CancelRun(world.ref(key), "why"))
        code.send(cancels=(1,))
    assert not topics.store.waits
    assert not topics.bring(key, topics.publish("1"))


def test_the_next_run_of_a_chain_has_had_what_the_one_before_had(topics: Topics) -> None:
    for text in "123":
        topics.publish(text, retain=10)
    key, got = topics.world.start(), []
    for _ in range(3):
        code = Code(topics.world, key)
        wait(code)
        got += topics.results(key, 1)
        code.end(End(Phase.COMPLETED, successor=Successor(json("1"))))
        (key,) = topics.world.store.runs
    assert got == [b"1", b"2", b"3"]
    topics.world.check()


def test_a_signal_that_comes_with_an_event_goes_on_with_the_next_run(topics: Topics) -> None:
    """All in one batch: the run takes the event, gets the signal, and continues as new."""
    topics.publish("1", retain=10)
    world, key = topics.world, topics.world.start()
    code = Code(world, key)
    waits = code.message(code.call("paid", WAIT), resident=True)
    signal = SignalRun(world.ref(key), "go", json('"signal"'))
    world.batch(waits, signal, code.message(end=End(Phase.COMPLETED, successor=Successor(json("1")))))
    (successor,) = world.store.runs
    (kept,) = [each for each in world.store.signals.values() if not each.consumed]
    assert (kept.run_key, kept.name) == (successor, "go")
    assert world.events(successor)[kept.event - 1].payload == b'"signal"'
    assert topics.results(key, 1) == [b"1"]


def test_a_rewound_run_gets_its_events_again_though_they_are_gone(topics: Topics) -> None:
    """In their order, before newer ones; and history shows them once."""
    key = topics.world.start()
    code = Code(topics.world, key)
    for text in "12":
        wait(code)
        topics.bring(key, topics.publish(text))
    topics.store.events.clear()
    assert do(topics.world, rewind(topics.world, key, 1)) == [1, 2]
    code = replayed(topics.world, key)
    answer = wait(code)
    assert [each.payload for each in answer.ended] == [None]
    topics.publish("3", retain=10)
    wait(code, 2)
    assert topics.results(key, 3, 4, 5) == [b"1", b"2", b"3"]
    assert topics.world.happened(key).count(EventType.TOPIC_RECEIVED) == 3
    topics.world.check()


def test_what_a_skipped_wait_had_goes_to_the_next(topics: Topics) -> None:
    """And a signal of the same name that another skipped wait had does not."""
    world = topics.world
    key = world.start()
    code = Code(world, key)
    code.run("s", NewWait("paid"), waiting=True, resident=True)
    world.do(SignalRun(world.ref(key), "paid", json('"signal"')))
    wait(code)
    topics.bring(key, topics.publish("1"))
    wait(code)
    world.do(PauseRun(world.ref(key), "why"))
    repair(world, key, skip(1), skip(2))
    assert topics.results(key, 3) == [b"1"]
    assert [each.name for each in world.store.signals.values() if not each.consumed] == ["paid"]
    world.check()


def test_the_next_attempt_of_a_run_gets_its_events_again(topics: Topics) -> None:
    """As it gets its signals: in their order, though they are gone."""
    world = topics.world
    key = world.start(details=RunDetails(retry=RetryPolicy(initial_seconds=1, maximum_attempts=2)))
    code = Code(world, key)
    for text in "12":
        wait(code)
        topics.bring(key, topics.publish(text))
    topics.store.events.clear()
    code.end(End(Phase.FAILED, failure=Failure("no", "ValueError")))
    world.advance(1)
    assert world.do(LookAtRun(world.ref(key)))
    wait(Code(world, key), 2)
    assert topics.results(key, 3, 4) == [b"1", b"2"]
    world.check()


def test_a_retried_run_goes_on_waiting_and_keeps_what_it_had(topics: Topics) -> None:
    """The wait that its end cut short is begun anew; what it had, it does not get again."""
    first = topics.publish("1", retain=10)
    key = topics.world.start()
    code = Code(topics.world, key)
    wait(code, 2)
    code.end(End(Phase.FAILED))
    assert do(topics.world, retry(topics.world, key)) == [2]
    wait(replayed(topics.world, key))
    assert topics.results(key, 1, 3) == [b"1", None]
    assert topics.bring(key, first, topics.publish("2"))
    assert topics.results(key, 3) == [b"2"]
    topics.world.check()


def test_a_run_that_begins_anew_gets_its_events_again(topics: Topics) -> None:
    """Its next attempt is told what the failed one was, first, and then what is new."""
    key = topics.world.start(details=RunDetails(retry=RetryPolicy(initial_seconds=0)))
    code = Code(topics.world, key)
    for text in "12":
        wait(code)
        topics.bring(key, topics.publish(text))
    wait(code)
    code.end(End(Phase.FAILED))
    assert not topics.store.waits
    topics.world.check()
    topics.store.events.clear()
    wait(Code(topics.world, key), 3)
    assert topics.results(key, 4, 5, 6) == [b"1", b"2", None]
    topics.bring(key, topics.publish("3"))
    assert topics.results(key, 6) == [b"3"]
    topics.world.check()
