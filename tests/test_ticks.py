"""Who gets what in which tick: the schedule alone, with workers that only take notes."""

import pytest

from keras_sg.schedules.ticks import Ticks, Told


class Notes:
    """A worker that writes down what it was given, and promises names."""

    def __init__(self, k, log):
        self.k, self.log, self.ticks = k, log, 0

    def tick(self, run, learn):
        self.log.append((self.k, run, learn))
        if run is None:
            return Told(None, None, "report")
        return Told(f"h{self.k}.{run[0]}", f"t{self.k}.{run[0]}", "report")


def ticks_of(modules, **options):
    logs = []
    return Ticks([Notes(k, logs) for k in range(modules)], **options), logs


def feed(ticks, batches, modules):
    for b in range(batches):
        ticks.advance([f"x{b} for {k}" for k in range(modules)])
    while ticks.busy:
        ticks.advance()


@pytest.mark.parametrize("slack", [0, 1, 3])
@pytest.mark.parametrize("modules", [2, 3, 5])
@pytest.mark.parametrize("batches", [1, 2, 7])
def test_everything_once_in_order_with_its_own(modules, batches, slack):
    ticks, log = ticks_of(modules, slack=slack)
    feed(ticks, batches, modules)
    for k in range(modules):
        runs = [run for module, run, _ in log if module == k and run is not None]
        learned = [learn for module, _, learn in log if module == k and learn is not None]
        assert runs == [(b, f"h{k - 1}.{b}" if k else None, f"x{b} for {k}") for b in range(batches)]
        expected = [(b, f"t{k + 1}.{b}") for b in range(batches)] if k < modules - 1 else []
        assert learned == expected
    assert ticks.tick == batches + modules * (1 + slack)


@pytest.mark.parametrize("slack", [0, 2])
def test_ticks_of_a_batch(slack):
    """`run(k, b)` in tick `b + k T`, `learn(k, b)` in tick `b + (k + 2) T`."""
    travel, modules, batches = 1 + slack, 3, 4
    ticks, log = ticks_of(modules, slack=slack)
    when = {}
    for tick in range(batches + (modules - 1) * travel + travel):
        before = len(log)
        ticks.advance(["x"] * modules if tick < batches else None)
        for k, run, learn in log[before:]:
            if run is not None:
                when["run", k, run[0]] = tick
            if learn is not None:
                when["learn", k, learn[0]] = tick
    for b in range(batches):
        assert [when["run", k, b] for k in range(3)] == [b + k * travel for k in range(3)]
        assert [when["learn", k, b] for k in range(2)] == [b + (k + 2) * travel for k in range(2)]
    assert not ticks.busy


def test_what_is_late_is_dropped():
    """Targets of every third batch come late and are dropped; the last one is waited for at the end."""
    late = {f"t1.{b}" for b in range(0, 9, 3)}
    ticks, log = ticks_of(2, max_delay=4, is_there=lambda promise: promise not in late)
    feed(ticks, 9, 2)
    assert [learn[0] for _, _, learn in log if learn is not None] == [1, 2, 4, 5, 6, 7, 8]
    assert ticks.dropped == 2


def test_what_is_late_is_learned_when_it_is_there():
    """A target that comes two ticks late is learned from then; nothing is waited for or dropped."""
    now = {"tick": 0}
    ticks, log = ticks_of(2, max_delay=4, is_there=lambda promise: now["tick"] >= int(promise[3:]) + 4)
    learned = {}
    for tick in range(12):
        now["tick"], before = tick, len(log)
        ticks.advance(["x", "x"] if tick < 6 else None)
        learned.update((learn[0], tick) for _, _, learn in log[before:] if learn is not None)
    assert learned == {b: b + 4 for b in range(6)}
    assert ticks.dropped == 0
