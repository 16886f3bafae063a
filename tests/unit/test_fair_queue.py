"""Round robin between clients, order of arrival within one."""

from typing import cast

from appliance.dispatch.fair_queue import FairQueue
from appliance.dispatch.ticket import RequestSink, Ticket
from appliance.types import ChatRequest, Sampling

SAMPLING = Sampling(max_tokens=1, temperature=0, top_p=1, top_k=0, repetition_penalty=1, seed=0)


def ticket(number: int, client: str) -> Ticket:
    request = ChatRequest(client=client, messages=[], sampling=SAMPLING, deadline_s=1)
    return Ticket(number, request, cast("RequestSink", None))


def filled(*clients: str) -> tuple[FairQueue, list[Ticket]]:
    queue = FairQueue()
    tickets = [ticket(number, client) for number, client in enumerate(clients)]
    for one in tickets:
        queue.push(one)
    return queue, tickets


def numbers(queue: FairQueue) -> list[int]:
    return [one.number for one in queue]


def test_ten_requests_of_one_client_do_not_delay_anothers_first() -> None:
    queue, _ = filled(*"aaaaaaaaaa", "b", "c")
    assert numbers(queue)[:4] == [0, 10, 11, 1]


def test_the_order_that_is_told_is_the_order_of_service() -> None:
    queue, _ = filled(*"aabbbca")
    told = numbers(queue)
    served = []
    while len(queue):
        first = next(iter(queue))
        served.append(first.number)
        queue.served(first)
    assert served == told


def test_removal_keeps_count_and_order() -> None:
    queue, tickets = filled(*"aabb")
    assert queue.remove(tickets[0])
    assert not queue.remove(tickets[0])
    assert (len(queue), queue.waiting_of("a"), queue.waiting_of("z")) == (3, 1, 0)
    assert numbers(queue) == [1, 2, 3]
    for one in tickets[1:]:
        queue.remove(one)
    assert len(queue) == 0
    assert numbers(queue) == []
