"""Whether the engine should draft from prompts, by what drafts gain. Knows gains and seconds; knows no engine.

GenAI's pipeline for prompt lookup can't be told to draft nothing: each running request makes every step one token wider
at least, which under load costs up to a third of the speed. So there are two kinds of worker, and one takes the other's
place when the load has changed for a while.
"""

LOSS = 0.97  # a gain below this speaks against drafting
WIN = 1.25  # and one above this for it
LOSS_PATIENCE_S = 2.0  # of steps in which drafts cost more than they bring
WIN_SAVED_S = 3.0  # that drafts would have saved in a row of such steps: about what a change costs
# Drafting is taken up again at most so often: a change loads a model beside the one that answers, and forgets the
# prefix cache. It is given up at any time, since it costs as long as it goes on.
LEAST_BETWEEN_S = 120.0


class LookupMode:
    """Decides; `drafting` is what the present worker does."""

    def __init__(self, *, drafting: bool) -> None:
        self.drafting = drafting
        self._against_s = 0.0  # seconds lost with drafts, or that would have been saved with them
        self._changed_at: float | None = None

    def watch(self, gain: float, step_s: float, now_s: float) -> bool:
        """Take in a step of `step_s` seconds; True where the mode should change now. `changed` says that it has."""
        if self.drafting:
            self._against_s = self._against_s + step_s if gain < LOSS else 0.0
            return self._against_s >= LOSS_PATIENCE_S
        self._against_s = self._against_s + step_s * (1 - 1 / gain) if gain > WIN else 0.0
        lately = self._changed_at is not None and now_s - self._changed_at < LEAST_BETWEEN_S
        return self._against_s >= WIN_SAVED_S and not lately

    def changed(self, now_s: float) -> None:
        """The other kind of worker answers from now on."""
        self.drafting = not self.drafting
        self._against_s = 0.0
        self._changed_at = now_s
