"""Who is next: round robin between clients, first come first served within one. Knows no engine."""

from collections import OrderedDict, deque
from collections.abc import Iterator

from appliance.dispatch.ticket import Ticket


class FairQueue:
    """Waiting tickets. Bounds are the caller's, with `len` and `waiting_of`."""

    def __init__(self) -> None:
        self._by_client: OrderedDict[str, deque[Ticket]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def waiting_of(self, client: str) -> int:
        """How many tickets of `client` wait."""
        return len(self._by_client.get(client, ()))

    def push(self, ticket: Ticket) -> None:
        """Last of its client; a client that had none waits behind the others."""
        self._by_client.setdefault(ticket.request.client, deque()).append(ticket)
        self._count += 1

    def remove(self, ticket: Ticket) -> bool:
        """Take a ticket out, wherever it stands; False where it does not wait."""
        own = self._by_client.get(ticket.request.client)
        if own is None or ticket not in own:
            return False
        own.remove(ticket)
        self._count -= 1
        if not own:
            del self._by_client[ticket.request.client]
        return True

    def served(self, ticket: Ticket) -> None:
        """Take out a ticket that is served now; its client's next turn comes after the others'."""
        if self.remove(ticket) and ticket.request.client in self._by_client:
            self._by_client.move_to_end(ticket.request.client)

    def __iter__(self) -> Iterator[Ticket]:
        """In the order of service, as it stands now."""
        turns = [list(own) for own in self._by_client.values()]
        for turn in range(max(map(len, turns), default=0)):
            for own in turns:
                if turn < len(own):
                    yield own[turn]
