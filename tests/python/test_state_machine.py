"""Any order of register, classify, unmap, remap and death agrees with a model of a dict."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import gpreempt
from gpreempt import PermissionDenied, ProcessGoneError, QueueNotFoundError, QueuePolicy
from machines import Guest, Machine

GUESTS = tuple(Guest(4_182_001 + i, queues=2 + i, nodes=(i % 2,), packet_ms=500.0) for i in range(3))
LIFE_S = 1000.0


class Queues(RuleBasedStateMachine):
    """The model: which registered queues are offline, and which of them are held."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        # Nothing is to come back by itself in this test, so the watchdog gets more time than any run takes.
        machine = Machine(Path(self.folder.name), guests=GUESTS, head="max_hold_ms = 100_000_000")
        for number, guest in enumerate(GUESTS):
            machine.gone_at(guest.pid, LIFE_S * (number + 1))
        self.session = machine.open()
        self.names = {(q.pid, q.kfd_id): q.queue_id for q in self.session.queues()}
        self.offline: dict[int, bool] = {}
        self.held: dict[int, bool] = {}
        self.owner: dict[int, int] = {}
        self.dead: set[int] = set()

    @initialize()
    def registered(self) -> None:
        """All queues are known to begin with; registering again changes nothing."""
        for (pid, kfd_id), handle in self.names.items():
            assert self.session.register_queue(pid, kfd_id) == handle
            self.offline[handle] = self.held[handle] = False
            self.owner[handle] = pid

    def alive(self, handles: Any) -> list[int]:
        return [handle for handle in handles if self.owner[handle] not in self.dead]

    @rule(data=st.data())
    def register(self, data: st.DataObject) -> None:
        pid, kfd_id = data.draw(st.sampled_from(sorted(self.names)))
        try:
            assert self.session.register_queue(pid, kfd_id) == self.names[pid, kfd_id]
            assert pid not in self.dead
        except ProcessGoneError:
            assert pid in self.dead

    @rule(data=st.data())
    def classify(self, data: st.DataObject) -> None:
        handle = data.draw(st.sampled_from(sorted(self.names.values())))
        try:
            self.session.set_policy(handle, QueuePolicy.PREEMPTIBLE)
            assert self.alive([handle])
            self.offline[handle] = True
        except ProcessGoneError:
            assert not self.alive([handle])

    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.names.values())), min_size=1, unique=True))
        alive = self.alive(chosen)
        try:
            batch = self.session.unmap(chosen)
        except PermissionDenied:
            assert not all(self.offline[handle] for handle in alive), "only a queue that is not offline is refused"
            return
        assert all(self.offline[handle] for handle in alive)
        assert batch.queues == len(alive)
        assert batch.rounds <= 2
        for handle in alive:
            self.held[handle] = True

    @rule(data=st.data())
    def remap(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.names.values())), min_size=1, unique=True))
        batch = self.session.remap(chosen)
        assert batch.queues == len(self.alive(chosen))
        for handle in chosen:
            self.held[handle] = False

    @rule(data=st.data(), wrong=st.sampled_from([1023, 0x1_FFFF]))
    def name_a_queue_that_is_not_there(self, data: st.DataObject, wrong: int) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.names.values())))
        try:
            self.session.remap([chosen, wrong])
            raise AssertionError("it was found")
        except QueueNotFoundError:
            pass

    @precondition(lambda self: len(self.dead) < len(GUESTS))
    @rule()
    def kill(self) -> None:
        number = len(self.dead)
        self.session.sleep(LIFE_S * (number + 1) + 1 - self.session.now())
        self.dead.add(GUESTS[number].pid)

    @invariant()
    def the_machine_agrees(self) -> None:
        for handle in self.owner:
            if self.alive([handle]):
                assert self.session.is_active(handle) == (not self.held[handle])
        status = self.session.status()
        assert status.preempted == sum(self.held[handle] for handle in self.alive(self.owner))
        assert status.active == len(self.alive(self.owner)) - status.preempted
        assert status.free == status.total - status.active

    def teardown(self) -> None:
        self.session.close()
        self.folder.cleanup()


TestQueues = Queues.TestCase
TestQueues.settings = settings(
    max_examples=30, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
