"""What a change tells, and how it is taken back."""

from __future__ import annotations

from uuid import uuid4

from stepwell_server.engine.news import News


def test_what_is_told_after_a_mark_is_taken_back_and_no_more() -> None:
    """A refused command after one that was not, in one batch."""
    news = News()
    news.notice(1)
    mark = news.mark()
    news.notice(2)
    news.revoke(uuid4(), 0, 1, "RUN_PAUSED")
    news.run_cancel = True
    news.undo(mark)
    assert list(news.notices) == [1]
    assert not news.revokes
    assert not news.run_cancel


def test_of_what_told_nothing_yet_all_is_taken_back() -> None:
    news = News()
    mark = news.mark()
    news.update("u")
    news.undo(mark)
    assert not news.updates


def test_a_request_to_cancel_alone_is_something_told() -> None:
    news = News()
    news.run_cancel = True
    mark = news.mark()
    news.notice(1)
    news.undo(mark)
    assert news.run_cancel
    assert not news.notices
