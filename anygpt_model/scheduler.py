"""Many callers, one model: gathers concurrent calls into one batch, decoded by one thread.

Waiting prompts are taken in the order in which they came, a bounded number of their ids between two steps, so that no
one starves and those under way keep their pace. The queue is bounded; a call may be cancelled at any step; one call's
failure touches no other. Callbacks run in their caller's thread. After a fork the child starts a thread of its own.
Knows no grammar and no sampling.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .errors import AnyloomError, Busy
from .generation import Batch, Decider, Prefill, Stream
from .values import Generation

OnToken = Callable[[int, int], None]
"""Called with the number of a request in its call and the id that was made for it."""
Cancelled = Callable[[], bool]
_POLL = 0.05
"""Seconds between two looks at a caller's `cancelled`."""
_PREFILL_BUDGET = 512
"""Prompt ids computed between two steps."""


@dataclass
class Call:
    """What waits for `left` requests. events: ids as they are made, and None when all are over: woken for each that is,
    a caller would take the interpreter from the decoding thread each time."""

    left: int
    events: queue.SimpleQueue[tuple[int, int] | None] = field(default_factory=queue.SimpleQueue)


@dataclass
class Job:
    """One request of a call."""

    stream: Stream
    call: Call
    over: bool = False
    error: Exception | None = None


class Scheduler:
    """Runs a Batch for any number of threads."""

    def __init__(self, open_batch: Callable[[], Batch], limit: int) -> None:
        """open_batch: makes the batch when first needed. limit: requests that may wait for a row."""
        self._open_batch = open_batch
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._prefilling: tuple[Job, Prefill] | None = None
        self._thread: threading.Thread | None = None
        self._batch: Batch | None = None
        self._closed = False
        self._left = False
        """Whether somebody has left since the queue was last swept."""

    def generate(
        self, deciders: Sequence[Decider], on_token: OnToken | None, cancelled: Cancelled | None
    ) -> list[Generation]:
        """Decode all of `deciders`; returns when all are done. Raises Busy when the queue is full.

        What on_token or cancelled raise ends the call, as an interrupt does; its requests leave the batch.
        """
        if os.getpid() != self._pid:
            self._reset()
        if not deciders:
            return []
        call = Call(len(deciders))
        jobs = [self._job(decider, number, call, on_token is not None) for number, decider in enumerate(deciders)]
        self._enqueue(jobs)
        try:
            self._attend(jobs, call, on_token, cancelled)
        finally:
            self._cancel(jobs)
        for job in jobs:
            if error := job.error or job.stream.error:
                raise error
        return [job.stream.result() for job in jobs]

    def close(self) -> None:
        """End the thread; calls under way end as cancelled. Frees the batch."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread if os.getpid() == self._pid else None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        atexit.unregister(self._leave)
        self._batch = None

    def _leave(self) -> None:
        """At the interpreter's end: a thread that is cut off in the middle of a pass would take the process with it."""
        if os.getpid() == self._pid:
            self.close()

    @property
    def load(self) -> tuple[int, int]:
        """Requests being decoded, requests waiting."""
        with self._changed:
            return len(self._running) + (self._prefilling is not None), len(self._waiting)

    def _job(self, decider: Decider, number: int, call: Call, streamed: bool) -> Job:
        emit = (lambda token: call.events.put((number, token))) if streamed else None
        return Job(Stream(decider, emit), call)

    def _enqueue(self, jobs: list[Job]) -> None:
        with self._changed:
            if self._closed:
                raise AnyloomError("The engine is closed; open another one with load_engine.")
            if len(self._waiting) + len(jobs) > self._limit:
                raise Busy(
                    f"{len(jobs)} request(s) came while {len(self._waiting)} wait and {self._limit} may; "
                    "try again in a moment or send fewer at once."
                )
            self._waiting.extend(jobs)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="anyloom-decode", daemon=True)
                self._thread.start()
                atexit.register(self._leave)
            self._changed.notify_all()

    def _attend(self, jobs: list[Job], call: Call, on_token: OnToken | None, cancelled: Cancelled | None) -> None:
        """In the caller's thread: pass ids on as they come, look whether the caller still wants them."""
        over = False
        while not over:
            try:
                event = call.events.get(timeout=None if cancelled is None else _POLL)
            except queue.Empty:
                event = ()  # type: ignore[assignment]
            over = event is None
            if event and on_token is not None:
                on_token(*event)
            if cancelled is not None and cancelled():
                self._cancel(jobs)

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Whatever is not over is not wanted any more."""
        for job in jobs:
            if not job.over:
                job.stream.cancelled = self._left = True

    def _run(self) -> None:
        """The decoding thread: one round after another while there is work, asleep while there is none."""
        try:
            while self._wait_for_work():
                self._round()
        finally:
            with self._changed:
                self._closed = True
            self._abandon()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._waiting or self._running or self._prefilling or self._closed):
                self._changed.wait()
            return not self._closed

    def _round(self) -> None:
        """Let go of what is done, compute some prompts, take one step."""
        self._sweep()
        try:
            if self._batch is None:
                self._batch = self._open_batch()
            self._release(self._batch)
            self._fill(self._batch)
            self._release(self._batch)
            if self._running:
                self._batch.step()
                self._release(self._batch)
        except Exception as error:  # the model itself failed (out of memory, device lost): all that it held fails
            self._fail(error)

    def _sweep(self) -> None:
        """Let go of requests that were cancelled while they waited."""
        if not self._left:
            return  # looking at a long queue before every step would take as long as drawing
        self._left = False
        with self._changed:
            gone = [job for job in self._waiting if job.stream.done]
            self._waiting = deque(job for job in self._waiting if not job.stream.done)
        for job in gone:
            _end(job)

    def _release(self, batch: Batch) -> None:
        done = [job for job in self._running if job.stream.done]
        for job in done:
            self._running.remove(job)
            _end(job)  # first: a caller needn't wait until its cache is kept
        batch.remove([job.stream for job in done])

    def _fill(self, batch: Batch) -> None:
        """Advance prompts by up to a budget of ids; each that is whole joins the batch."""
        budget = _PREFILL_BUDGET
        while budget > 0 and not batch.full:
            if self._prefilling is None:
                job = self._next()
                if job is None:
                    return
                try:
                    self._prefilling = job, batch.begin(job.stream)
                except Exception as error:
                    job.error = error
                    _end(job)
                    continue
            job, prefill = self._prefilling
            if job.stream.done:
                self._prefilling = None
                _end(job)
                continue
            budget -= prefill.advance()
            if not prefill.waiting:
                self._prefilling = None
                self._running.append(job)
                batch.admit(prefill)

    def _next(self) -> Job | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def _fail(self, error: Exception) -> None:
        """All that the model held fails; where it held nothing, it can't even begin, and those that wait fail too."""
        jobs = [*self._running, *([self._prefilling[0]] if self._prefilling else [])]
        self._running, self._prefilling, self._batch = [], None, None
        if not jobs:
            with self._changed:
                jobs = list(self._waiting)
                self._waiting.clear()
        for job in jobs:
            job.error = error
            _end(job)

    def _abandon(self) -> None:
        with self._changed:
            jobs = [*self._running, *self._waiting, *([self._prefilling[0]] if self._prefilling else [])]
            self._running, self._prefilling = [], None
            self._waiting.clear()
        for job in jobs:
            job.stream.cancelled = True
            _end(job)


def _end(job: Job) -> None:
    job.over = True
    job.call.left -= 1
    if not job.call.left:
        job.call.events.put(None)
