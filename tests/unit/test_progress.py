"""What counts as progress of a worker, on a clock that the test turns."""

from appliance.engine.ipc import CanaryAnswer, Finish, Prepared, Ready, Rejected, Step, TextDelta
from appliance.engine.progress import SLOWEST_PREFILL_TOKENS_PER_S, Progress
from appliance.types import EngineStats

STALL_S = 10.0


class Watched:
    """A progress with its clock, and a worker that says what the test wants."""

    def __init__(self, *, shows_prefill: bool = True) -> None:
        self.now = 100.0
        self.progress = Progress(STALL_S, lambda: self.now)
        self.progress.note(
            Ready(
                versions={}, max_running_requests=8, kv_blocks=100, block_tokens=32, load_s=1, warm_up_s=1,
                rss_bytes=1, shows_prefill=shows_prefill,
            )
        )  # fmt: skip

    def running(self, request_id: int, prompt_tokens: int = 100) -> None:
        self.progress.prepare(request_id)
        self.progress.note(Prepared(request_id, prompt_tokens))
        self.progress.start(request_id)

    def step(self, *tokens: int, ended: tuple[int, ...] = (), usage: float | None = 0.0) -> None:
        deltas = [TextDelta(request_id, "x", 1) for request_id in tokens]
        finished = [Finish(request_id, "stop", 1) for request_id in ended]
        self.progress.note(Step(deltas, finished, EngineStats(0.1, 1, usage, None, 1)))

    def stalls_after(self, seconds: float) -> bool:
        """Whether it has stalled once `seconds` have passed, and had not just before."""
        start, self.now = self.now, self.now + seconds - 0.001
        before = self.progress.stalled()
        self.now = start + seconds + 0.001
        return before is None and self.progress.stalled() is not None

    def fine_after(self, seconds: float) -> bool:
        self.now += seconds
        return self.progress.stalled() is None


def test_who_owes_nothing_never_stalls() -> None:
    watched = Watched()
    assert watched.fine_after(1000)
    watched.progress.prepare(1)
    watched.progress.note(Prepared(1, 10))
    assert watched.fine_after(1000)
    assert watched.progress.due == []


def test_a_prompt_that_is_not_tokenized_is_a_stall() -> None:
    watched = Watched()
    watched.progress.prepare(1)
    assert watched.stalls_after(STALL_S)


def test_tokens_are_progress_and_empty_steps_are_none() -> None:
    watched = Watched()
    watched.running(1)
    assert watched.fine_after(9)
    watched.step(1)
    assert watched.fine_after(9)
    watched.step()
    assert watched.stalls_after(1)


def test_a_prefill_that_fills_the_cache_is_progress_and_one_that_does_not_is_none() -> None:
    watched = Watched()
    watched.running(1)
    for usage in (0.1, 0.2, 0.3):
        assert watched.fine_after(9)
        watched.step(usage=usage)
    assert watched.fine_after(9)
    watched.step(usage=0.3)
    assert watched.stalls_after(1)


def test_a_cache_that_fills_and_empties_without_a_token_is_a_stall_in_the_end() -> None:
    watched = Watched()
    watched.running(1)
    for _ in range(100):
        watched.now += 1
        watched.step(usage=0.5)
        watched.step(usage=0.0)
    assert watched.progress.stalled() is not None


def test_lengths_that_are_told_keep_no_generation_alive() -> None:
    watched = Watched()
    watched.running(1)
    for request_id in range(2, 6):
        watched.now += 3
        watched.progress.prepare(request_id)
        watched.progress.note(Prepared(request_id, 10))
    assert watched.progress.stalled() is not None


def test_tokens_of_others_keep_the_worker_alive_and_an_end_makes_it_idle() -> None:
    watched = Watched()
    watched.running(1)
    watched.running(2)
    for _ in range(5):
        assert watched.fine_after(9)
        watched.step(2)
    watched.step(ended=(1, 2))
    assert watched.fine_after(1000)


def test_a_cancelled_request_still_has_to_end() -> None:
    watched = Watched()
    watched.running(1)
    watched.progress.cancel(1)
    assert watched.progress.due == [1]
    assert watched.stalls_after(STALL_S)


def test_an_unseen_prefill_has_its_prompts_length_and_no_more() -> None:
    watched = Watched(shows_prefill=False)
    watched.running(1, prompt_tokens=1000)
    assert watched.stalls_after(STALL_S + 1000 / SLOWEST_PREFILL_TOKENS_PER_S)
    assert "1000 prompt tokens" in (watched.progress.stalled() or "")


def test_after_its_first_token_an_unseen_prefill_counts_no_more() -> None:
    watched = Watched(shows_prefill=False)
    watched.running(1, prompt_tokens=1000)
    watched.step(1, usage=None)
    assert watched.stalls_after(STALL_S)


def test_answers_for_what_is_no_longer_asked_are_not_passed_on() -> None:
    watched = Watched()
    watched.progress.prepare(1)
    assert watched.progress.note(Prepared(1, 10))
    assert not watched.progress.note(Prepared(1, 10))
    assert not watched.progress.note(Prepared(2, 10))
    assert watched.progress.note(Rejected(1, "no"))
    assert not watched.progress.note(Rejected(1, "no"))
    assert not watched.progress.holds(1)


def test_a_prompt_that_is_cancelled_while_it_is_tokenized_is_answered_for_and_then_forgotten() -> None:
    watched = Watched()
    watched.progress.prepare(1)
    watched.progress.cancel(1)
    assert watched.progress.due == [1]
    assert watched.progress.note(Prepared(1, 10))
    assert not watched.progress.holds(1)


def test_an_idle_worker_is_unproved_until_its_canary_is_answered() -> None:
    watched = Watched()
    watched.now += 60
    assert watched.progress.unproved_s() == 60
    watched.progress.ask_canary()
    assert watched.progress.unproved_s() == 0
    assert watched.fine_after(9)
    watched.progress.note(CanaryAnswer(1, 1))
    assert watched.fine_after(1000)


def test_a_canary_without_an_answer_or_without_a_token_is_a_stall() -> None:
    silent, mute = Watched(), Watched()
    silent.progress.ask_canary()
    assert silent.stalls_after(STALL_S)
    mute.progress.ask_canary()
    mute.progress.note(CanaryAnswer(0, 1))
    assert mute.progress.stalled() is not None


def test_who_runs_a_request_needs_no_canary() -> None:
    watched = Watched()
    watched.running(1)
    watched.now += 9
    assert watched.progress.unproved_s() == 0
    watched.step(1, ended=(1,))
    watched.now += 5
    assert watched.progress.unproved_s() == 5


def test_what_waits_is_forgotten_when_another_worker_prepares_it_and_what_runs_is_not() -> None:
    watched = Watched()
    watched.running(1)
    watched.progress.prepare(2)
    watched.progress.note(Prepared(2, 10))
    watched.progress.prepare(3)
    assert sorted(watched.progress.forget_waiting()) == [2, 3]
    assert watched.progress.due == [1]
    assert not watched.progress.note(Prepared(3, 10))
    watched.step(ended=(1,))
    assert not watched.progress.busy
