"""Resumable answers of all clients: who may have one back, for how long, and how many. Knows no wire and no engine."""

import asyncio
import logging
from collections.abc import Callable

from appliance.api.clients import same_client
from appliance.api.kept_answer import Delivery, KeptAnswer
from appliance.api.outbox import Outbox
from appliance.dispatch import CancelReason, Ticket
from appliance.errors import BadRequest, UnknownId
from appliance.observability.logs import SELDOM, fields
from appliance.observability.metrics import Metrics

log = logging.getLogger(__name__)

ANSWER_CHARS = 1024  # what an answer counts for besides its text, so that their number is bounded too


class Keeper:
    """Keeps an answer while a socket hears it, and for the grace after the later of its end and its socket's.

    Bounds: `max_per_client` requests of one client go on without a socket, and so many of its answers are kept after
    their end. Where more than `max_chars` characters are kept in all, those that ended are forgotten, the oldest first;
    where none has ended, the longest answer is no longer kept, and is cancelled where no socket hears it.
    """

    def __init__(
        self,
        *,
        grace_s: float,
        max_chars: int,
        max_per_client: int,
        cancel: Callable[[Ticket, CancelReason], None],
        metrics: Metrics,
    ) -> None:
        self._grace_s = grace_s
        self._max_chars = max_chars
        self._max_per_client = max_per_client
        self._cancel = cancel
        self._metrics = metrics
        self._answers: dict[tuple[str, str], KeptAnswer] = {}  # those that ended: in the order of their ends
        self._chars = 0
        self._room_due = False

    def rebound(self, *, grace_s: float, max_chars: int, max_per_client: int) -> None:
        """Other bounds, for what happens from now on."""
        self._grace_s, self._max_chars, self._max_per_client = grace_s, max_chars, max_per_client
        self.grew(0)

    @property
    def enabled(self) -> bool:
        """Whether answers are kept at all."""
        return self._grace_s > 0

    @property
    def detached(self) -> int:
        """Requests that go on without a socket."""
        return sum(_goes_on_alone(answer) for answer in self._answers.values())

    def detached_of(self, client: str) -> int:
        """Those of one client."""
        return sum(_goes_on_alone(answer) for answer in self._of(client))

    def keeps_for(self, client: str) -> bool:
        """Whether this client may have something to come back for: a socket that has an answer may be dead."""
        return bool(self._of(client))

    def is_live(self, session: str, request_id: str) -> bool:
        """Whether a kept request of this name has not ended, whichever socket hears it."""
        answer = self._answers.get((session, request_id))
        return answer is not None and answer.end is None

    def forget(self, session: str, request_id: str) -> None:
        """The name is used again: what ended under it is not asked for any more."""
        answer = self._answers.get((session, request_id))
        if answer is not None:
            self._drop(answer)

    def add(self, answer: KeptAnswer, ticket: Ticket) -> None:
        """Keep an answer from its beginning."""
        answer.ticket = ticket
        answer.keeper = self
        self._answers[answer.key] = answer
        self.grew(ANSWER_CHARS + len(answer.text))

    def resume(
        self, session: str, request_id: str, offset: int, client: str, outbox: Outbox, forget: Callable[[str], None]
    ) -> Ticket:
        """Have an answer said to `outbox` from `offset` on, and to no other any more.

        Raises BadRequest where the answer has no such offset; UnknownId, in the same words whether there is no such
        answer, no longer, or not for this client.
        """
        if offset < 0:
            self._metrics.resumed("refused")
            raise BadRequest(f"offset is {offset}; expected the number of characters that have come, from 0")
        answer = self._answers.get((session, request_id))
        if answer is None or not same_client(answer.client, client):
            self._metrics.resumed("unknown_id")
            raise UnknownId(f"nothing of yours can be resumed in that session under the id {request_id[:64]!r}")
        if offset > len(answer.text):
            self._metrics.resumed("refused")
            raise BadRequest(f"offset is {offset}; the answer has {len(answer.text)} characters (code points) so far")
        self._hand_over(answer, Delivery(answer, outbox, forget, offset=offset))
        return answer.ticket

    def _hand_over(self, answer: KeptAnswer, delivery: Delivery) -> None:
        before = answer.delivery
        if before is not None:
            before.revoke()
        outcome = "finished" if answer.end is not None else "resumed" if before is None else "taken_over"
        self._metrics.resumed(outcome)
        log.info("request resumed", extra=_named(answer, outcome=outcome))
        _stop_clock(answer)
        answer.delivery = delivery
        delivery.announce()

    def detach(self, outbox: Outbox) -> set[str]:
        """The socket of `outbox` is gone: its answers wait for another; the ids of those that do."""
        heard = [a for a in self._answers.values() if a.delivery is not None and a.delivery.outbox is outbox]
        return {answer.key[1] for answer in heard if self._detach(answer)}

    def _detach(self, answer: KeptAnswer) -> bool:
        """Whether it is kept on."""
        if answer.end is None and self.detached_of(answer.client) >= self._max_per_client:
            log.info("request not kept, too many of its client are detached", extra=_named(answer))
            self._drop(answer)
            return False
        answer.delivery = None
        self._start_clock(answer)
        if answer.end is None:
            log.info("request detached", extra=_named(answer, grace_s=self._grace_s))
        return True

    def close(self) -> None:
        """Forget everything; nothing can be resumed any more, and nothing is kept."""
        for answer in self._answers.values():
            _stop_clock(answer)
            answer.keeper = None
        self._answers.clear()
        self._grace_s = 0

    # ---- from answers (Listener) ------------------------------------------------------------------------

    def grew(self, chars: int) -> None:
        """See Listener. Room is made in the loop's next turn: an answer grows in the middle of others' affairs."""
        self._chars += chars
        if self._chars > self._max_chars and not self._room_due:
            self._room_due = True
            asyncio.get_running_loop().call_soon(self._make_room)

    def ended(self, answer: KeptAnswer) -> None:
        """See Listener."""
        self._answers[answer.key] = self._answers.pop(answer.key)
        if answer.delivery is None:
            self._start_clock(answer)
        own = [other for other in self._of(answer.client) if other.end is not None]
        if len(own) > self._max_per_client:
            self._drop(_least_needed(own))

    # ---- within -----------------------------------------------------------------------------------------

    def _of(self, client: str) -> list[KeptAnswer]:
        return [answer for answer in self._answers.values() if answer.client == client]

    def _make_room(self) -> None:
        self._room_due = False
        while self._chars > self._max_chars and self._answers:
            ended = [answer for answer in self._answers.values() if answer.end is not None]
            if ended:
                self._drop(_least_needed(ended))
                continue
            longest = max(self._answers.values(), key=lambda answer: len(answer.text))
            extra = _named(longest, chars=len(longest.text)) | SELDOM
            log.warning("request no longer resumable, too much is kept", extra=extra)
            self._drop(longest)

    def _start_clock(self, answer: KeptAnswer) -> None:
        _stop_clock(answer)
        answer.forgetting = asyncio.get_running_loop().call_later(self._grace_s, self._expire, answer)

    def _expire(self, answer: KeptAnswer) -> None:
        if answer.end is None:
            self._metrics.resumed("expired")
            log.info("detached request cancelled, its client did not come back", extra=_named(answer))
        self._drop(answer)

    def _drop(self, answer: KeptAnswer) -> None:
        """Keep it no longer; it goes on where a socket hears it, and is cancelled where none does."""
        del self._answers[answer.key]
        self._chars -= ANSWER_CHARS + len(answer.text)
        answer.give_up()
        if answer.delivery is None and answer.end is None:
            self._cancel(answer.ticket, "not_resumed")


def _goes_on_alone(answer: KeptAnswer) -> bool:
    return answer.delivery is None and answer.end is None


def _least_needed(ended: list[KeptAnswer]) -> KeptAnswer:
    """The first that ended; one that a socket has heard to its end before one that waits for its client."""
    return min(ended, key=lambda answer: answer.delivery is None or not answer.delivery.over)


def _stop_clock(answer: KeptAnswer) -> None:
    if answer.forgetting is not None:
        answer.forgetting.cancel()
        answer.forgetting = None


def _named(answer: KeptAnswer, **more: object) -> dict[str, object]:
    return fields(request_id=answer.ticket.number, client=answer.client, **more)
