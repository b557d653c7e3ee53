"""Mail that its sender did not deliver, because it died or was too busy."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from stepwell_server import errors
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.loops.orders import SLICE, CommandLoop, submit_all
from stepwell_server.model.mail import unpack_letter
from stepwell_server.model.runs import RunRef
from stepwell_server.store import mail
from stepwell_server.telemetry import metrics

if TYPE_CHECKING:
    from uuid import UUID


class MailDelivery(CommandLoop):
    """Delivers what has lain for two polls. Whoever comes second finds the row gone, and changes nothing."""

    name = "mail"

    async def run_once(self) -> int:
        """Delivers a slice; each is waited for, so that none is under way twice."""
        steady = self._clock.monotonic()
        self._deferred.forget_old(steady)
        most = SLICE + len(self._deferred)
        before = self._clock.now() - timedelta(seconds=self._seconds * 2)
        async with self._connection.use() as connection:
            found = await mail.read_mail(connection, before, most)
        self._has_more = len(found) == most
        wanted = [piece for piece in found if not self._deferred.is_left(piece.mail_id, steady)][:SLICE]
        first = next((piece for piece in wanted if piece.mail_id not in self._deferred), None)
        if first is not None:
            metrics.observe_lateness(self.name, (self._clock.now() - first.post_time).total_seconds())
        orders = [
            ReadLetter(RunRef(None, "", piece.run_key), piece.mail_id, unpack_letter(piece.body)) for piece in wanted
        ]
        answers = await submit_all(self._committers, orders)
        gone: list[UUID] = []
        for piece, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, bool):
                self._deferred.forget(piece.mail_id)
            elif isinstance(answer, errors.RunNotFound):
                gone.append(piece.mail_id)
            else:
                self._deferred.add(piece.mail_id, self._clock.monotonic())
        if gone:
            async with self._connection.use() as connection:
                await mail.delete_mail(connection, gone)
        return len(gone) + sum(isinstance(answer, bool) for answer in answers)
