"""In turn, as ticks have it: all modules take one batch after the other in one round.

    module 0    run 0               learn 0               run 1    ...
    module 1             run 0                 learn 0
    module 2                        run 0

What a module tells the one below it is there before the round ends, so that nothing is in flight between
rounds. Where a module did not descend, it tells nothing, and the synthesizers below it do not learn. This
file computes nothing and knows no backend.
"""

from collections.abc import Sequence
from typing import Any

from keras_sg.schedules.ticks import Promise, Worker


class Rounds:
    """Moves batches through workers, a batch a round; in the place of `keras_sg.schedules.ticks.Ticks`.

    Args:
        workers: the modules, in their order.

    Attributes:
        tick: how many rounds there have been.
    """

    busy = False
    dropped, max_delay = 0, None

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self.tick = 0

    def ahead(self, k: int) -> int:
        """How many rounds may be asked of a module before the oldest must be done."""
        return 1

    def advance(self, batch: Sequence[Any] | None = None) -> list[tuple[int, int | None, Promise]]:
        """One round; see `keras_sg.schedules.ticks.Ticks.advance`."""
        if batch is None:
            return []
        number, above = self.tick, None
        reports: list[tuple[int, int | None, Promise]] = []
        for k, (worker, feed) in enumerate(zip(self._workers, batch)):
            told = worker.tick((number, above, feed), None)
            above = told.above
            reports.append((k, number, told.report))
            if k and told.below is not None:
                taught = self._workers[k - 1].tick(None, (number, told.below))
                reports.append((k - 1, None, taught.report))
        self.tick += 1
        return reports
