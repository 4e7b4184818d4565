"""When does this child end, and how does it end without losing a task?"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import logging
import operator
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import bootsteps, signals
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from celery.worker.control import Panel

from .lifetime import RECALLED, Ending, Vitals, drain_until, reason_to_end
from .notices import Notice
from .parent import Parent
from .presence import BEAT, REPEAT, Voice, Word, say
from .runner import RunnerState
from .stragglers import release_stragglers

logger = logging.getLogger(__name__)

#: Seconds between two looks at oneself.
TICK = 0.25
#: Seconds between the broker's word that consuming stopped and the look for work that slipped in: a message that was
#: on its way then has arrived.
LOOK_AGAIN = 0.5
#: Seconds after which a Redis that was asked for a task will not answer: kombu asks for a second at a time.
NO_ANSWER = 5.0
#: Seconds after which the worker's loop is too busy to speak.
SPEAK_UP = 1.6 * REPEAT
#: Seconds the worker gets to leave after its tasks were given up: what runs in a thread cannot be cut off.
LEAVE_AFTER = 5.0


class Phase(enum.Enum):
    """How far the end has come."""

    WORKING = enum.auto()
    DRAINING = enum.auto()
    STOPPED = enum.auto()


class Terminator:
    """Watches one worker from a thread of its own and ends it, by the same drain whatever the reason.

    Stop consuming, wait until the broker knows, look again, let running tasks finish (bounded by `shutdown_timeout`),
    let the worker hand back what it holds, exit. The thread only looks; channels are touched on the consumer's thread.
    """

    def __init__(
        self,
        letter: Parent,
        runner_id: str,
        *,
        hello_file: Path | None = None,
        notice: Callable[[], Notice] = Notice,
        voice: Voice | None = None,
        leave: Callable[[], None] | None = None,
        pulse: Callable[[], None] = lambda: None,
        ages: Callable[[], tuple[float, float] | None] = lambda: None,
        recallable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ending: Ending | None = None
        self.phase = Phase.WORKING
        self._letter, self._runner_id, self._hello_file = letter, runner_id, hello_file
        self._notice, self._leave, self._voice = notice, leave, voice
        self._pulse = pulse
        self._ages, self._recallable = ages, recallable
        self._ages_at_hello: tuple[float, float] | None = None
        self._told = ""
        self._gave_up_at: float | None = None
        self._clock = clock
        self._started_at = clock()
        self._hello_at: float | None = None
        self._quiet_since: float | None = None
        self._lost_since: float | None = None
        self._cordoned = self._cancelling = False
        self._taken = self._received = 0
        self._consumer: Any = None
        self._not_consuming_since: float | None = None
        self._drain_began_at = 0.0
        self._last_beat = float("-inf")
        self._said: Word | None = None
        self._node, self._written = "", ""
        self._said_at = self._started_at
        self._over = threading.Event()
        self._thread = threading.Thread(target=self.run, name="flame-terminator", daemon=True)

    def start(self) -> None:
        """Begin to watch; before the worker connects, so that one that never does ends too."""
        signals.worker_ready.connect(self._on_ready)
        signals.worker_ready.connect(self._take_sigterm)
        signals.worker_shutting_down.connect(self._on_told)
        Panel.data["shutdown"] = self._on_shutdown
        if self._letter.limits.single_use:
            signals.task_received.connect(self._on_received)
        self._thread.start()

    def tell(self, by: str) -> None:
        """End because somebody says so, by the same drain as for any other reason."""
        self._told = self._told or f"told by {by}"

    def recalled(self, consumer: Any) -> None:
        """Say that it ends without having taken anything, on the consumer's thread: it was recalled as it booted."""
        self.phase, self.ending = Phase.STOPPED, Ending(reason=RECALLED)
        self._log("recalled", "it was needed no more before it was up")
        self._say(consumer)
        self._hello_at = self._clock()  # it came up all the same: its unit must not tell of a boot that failed
        self._write_down()

    def obey(self, cordoned: bool) -> None:
        """Take no more work, or take it again, as remote control would do it; from any thread, and however often."""
        consumer = self._consumer
        tasks = consumer.task_consumer if consumer is not None else None
        if tasks is None or self.phase is not Phase.WORKING or cordoned == self._cordoned:
            return
        act = consumer.cancel_task_queue if cordoned else consumer.add_task_queue
        for queue in self._letter.queues:
            consumer.call_soon(act, queue)

    @property
    def gave_up(self) -> bool:
        """Whether tasks did not finish in time: some may be running still, in threads that nothing can cut off."""
        return self._gave_up_at is not None

    def stop(self) -> None:
        """Stop watching: the worker is over."""
        self._over.set()
        self._thread.join(timeout=10 * TICK)
        if self._voice is not None:
            self._voice.close()

    def run(self) -> None:
        """Look at the worker again and again until it is over."""
        while not self._over.wait(TICK):
            try:
                self.tick(self._clock())
                self._give_sign()  # not after a look that failed: a worker that cannot be looked at is as good as hung
            except Exception:  # this thread is what ends the runner: it must outlive a look that failed
                logger.exception("flame: looking at the worker failed; the next look follows")

    def _give_sign(self) -> None:
        """Give a sign of life, but for a worker that has only to leave: if its loop hangs, nothing else ends it."""
        if self.phase is Phase.WORKING or _held():
            self._pulse()

    def attach(self, consumer: Any) -> None:
        """Take the worker's consumer; it is connected anew after each loss of the broker."""
        self._consumer, self._lost_since, self._not_consuming_since = consumer, None, None
        self._node = consumer.hostname

    def detach(self) -> None:
        """The connection was lost, or is being closed; the last moment at which this runner can speak."""
        consumer, self._consumer, self._lost_since = self._consumer, None, self._clock()
        if consumer is not None and self.ending is not None:
            self._say(consumer)

    def tick(self, now: float) -> None:
        """Look once, and go one step further towards the end if there is a reason to."""
        held = _held()
        self._notice_quiet(held, now)
        self._notice_cordon(self._consumer)
        if self.phase is Phase.WORKING:
            self._consider(now)
        elif self.phase is Phase.DRAINING:
            self._drain(held, now)
        elif self._gave_up_at is not None and now - self._gave_up_at >= LEAVE_AFTER and self._leave is not None:
            logger.error("flame: the worker goes on with its tasks; it is cut off")
            self._leave()
        if self._consumer is not None and now - self._last_beat >= (BEAT if self._has_news() else REPEAT):
            self._last_beat = now
            self._consumer.call_soon(self._say, self._consumer)
        self._speak_up(now)
        self._write_down()

    def _notice_quiet(self, held: int, now: float) -> None:
        taken = state.all_total_count[0]
        if held or taken != self._taken or self._hello_at is None or self._lost_since is not None:
            self._quiet_since = None  # without a broker it cannot know whether there is work
        elif self._quiet_since is None:
            self._quiet_since = now
        self._taken = taken

    def _notice_cordon(self, consumer: Any) -> None:
        """See whether remote control cancelled or added its queues: it is one or the other when that is complete."""
        tasks = consumer.task_consumer if consumer is not None else None
        if tasks is None or self.phase is not Phase.WORKING:
            return
        count = len(tasks.queues)
        cordoned = count == 0 or (self._cordoned and count < len(self._letter.queues))
        if cordoned != self._cordoned:
            # Who wants it back gets it for the whole of its idle time, and has CORDONED_PATIENCE to say so.
            self._cordoned, self._last_beat, self._quiet_since = cordoned, float("-inf"), None
            self._log(
                "cordoned" if cordoned else "uncordoned", "it takes no more work" if cordoned else "by its parent"
            )

    def _consider(self, now: float) -> None:
        self.ending = reason_to_end(self._vitals(), self._letter.limits, now)
        if self.ending is not None:
            self._log("ending", self.ending.reason)
            self.phase, self._drain_began_at = Phase.DRAINING, now
            self._not_consuming_since, self._last_beat = None, float("-inf")
            self._stop_consuming()

    def _drain(self, held: int, now: float) -> None:
        if self.ending is not None and self.ending.idle and held:
            return self._resume()
        if held and self.ending is not None and now >= self._drain_until(self.ending):
            return self._give_up(now)
        if self._consumer is not None and (self._not_consuming_since is None or _consumes(self._consumer)):
            self._not_consuming_since = None
            return self._stop_consuming()
        return self._finish() if not held and self._settled(now) else None

    def _settled(self, now: float) -> bool:
        """Tell whether nothing can come any more that was on its way when the broker confirmed."""
        waited = now - (self._not_consuming_since or now)
        return self._consumer is None or waited >= (NO_ANSWER if _asks(self._consumer) else LOOK_AGAIN)

    def _resume(self) -> None:
        self._log("going on", "a task slipped in")
        self.phase, self.ending, self._quiet_since = Phase.WORKING, None, None
        if self._consumer is not None:
            self._consumer.call_soon(self._consumer.task_consumer.consume)

    def _log(self, what: str, reason: str) -> None:
        told = {"event": what.replace(" ", "_"), "runner": self._runner_id, "pool": self._letter.pool, "reason": reason}
        logger.info("flame: %s: %s", what, reason, extra=told)

    def _finish(self) -> None:
        self.phase = Phase.STOPPED
        state.should_stop = 0

    def _drain_until(self, ending: Ending) -> float:
        return drain_until(ending, self._vitals(), self._letter.limits, self._drain_began_at)

    def _give_up(self, now: float) -> None:
        limit = self._letter.limits.shutdown_timeout
        noticed = self._notice().taken_away_at is not None
        name = "before EC2 takes the machine" if noticed else f"within {limit:g} s (shutdown_timeout)"
        count = len(state.active_requests)
        told = {"event": "gave_up", "runner": self._runner_id, "pool": self._letter.pool, "count": count}
        logger.warning("flame: %d tasks did not finish %s", count, name, extra=told)
        self.phase, self._gave_up_at = Phase.STOPPED, now
        state.should_terminate = 0

    def _stop_consuming(self) -> None:
        if self._consumer is not None:
            self._consumer.call_soon(self._cancel, self._consumer)

    def _cancel(self, consumer: Any) -> None:
        """Runs on the consumer's thread; returns once the broker knows."""
        if self.phase is Phase.DRAINING and self._not_consuming_since is None:
            if self.ending is not None and not self.ending.idle:
                self._give_back(consumer)
            else:
                self._confirm(consumer.task_consumer)
            self._not_consuming_since = self._clock()

    def _confirm(self, tasks: Any) -> None:
        """Cancel and wait for the broker; what it sent meanwhile is heard before that returns."""
        self._cancelling = True
        try:
            tasks.cancel()
        finally:
            self._cancelling = False

    def _give_back(self, consumer: Any) -> None:
        """Take nothing more, and hand back what no slot has begun: begun now, it might have to be cut off."""
        hear = consumer.task_consumer.on_message
        surplus = self._refuse(consumer.task_consumer)
        consumer.task_consumer.on_message = hear
        for message in [*surplus, *_waiting(consumer)]:
            message.requeue()

    def _refuse(self, tasks: Any) -> list[Any]:
        """Cancel, and return the messages that the broker sent before it knew."""
        surplus: list[Any] = []
        tasks.on_message = surplus.append
        self._confirm(tasks)
        return surplus

    def _say(self, consumer: Any) -> None:
        if consumer.event_dispatcher is not None and not self._letter.board:
            self._said, self._said_at = self.word(), self._clock()
            say(consumer.event_dispatcher, self._said)

    def _speak_up(self, now: float) -> None:
        """Speak for the worker's loop where a task keeps it busy: a runner that is not heard is taken for dead."""
        if self._voice is None or self._consumer is None or now - self._said_at < SPEAK_UP:
            return
        self._said, self._said_at = self.word(), now
        self._voice.say(self._said)

    def _write_down(self) -> None:
        """Keep in the file that says hello how this runner is: a release's `status` reads it."""
        reason = self.ending.reason if self.ending is not None else ""
        told = json.dumps({"worker": self._node, "state": self._state.value, "reason": reason})
        if self._hello_file is None or self._hello_at is None or told == self._written:
            return
        self._written = told
        partial = self._hello_file.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk is no reason not to look after the worker
            partial.write_text(self._written, encoding="utf-8")
            partial.replace(self._hello_file)

    def _has_news(self) -> bool:
        """Tell whether its last word is not true any more; that a busy runner took more tasks is no news."""
        said, word = self._said, self.word()
        return said is None or word != dataclasses.replace(said, taken=word.taken)

    def word(self) -> Word:
        """Return what this runner says of itself now; from any thread."""
        return Word(
            runner_id=self._runner_id,
            pool=self._letter.pool,
            owner=self._letter.owner,
            state=self._state,
            active=_held(),
            taken=self._accepted,
            reason=self.ending.reason if self.ending is not None else "",
            ages=self._ages_at_hello,
            recallable=self._recallable,
        )

    @property
    def _state(self) -> RunnerState:
        if self.ending is not None:
            return RunnerState.ENDING
        return RunnerState.CORDONED if self._cordoned else RunnerState.UP

    @property
    def _accepted(self) -> int:
        return max(self._taken, self._received)

    def _vitals(self) -> Vitals:
        notice = self._notice()
        return Vitals(
            started_at=self._started_at,
            hello_at=self._hello_at,
            quiet_since=self._quiet_since,
            disconnected_since=self._lost_since,
            taken=self._accepted,
            slots=self._letter.concurrency,
            cordoned=self._cordoned,
            told=self._told,
            taken_away_at=notice.taken_away_at,
            rebalance=notice.rebalance,
        )

    def _on_ready(self, **_: Any) -> None:
        self._hello_at, self._ages_at_hello = self._clock(), self._ages()
        told = {"event": "up", "runner": self._runner_id, "pool": self._letter.pool}
        logger.info("flame: runner %s of pool %s is up", self._runner_id, self._letter.pool, extra=told)
        if self._hello_file is not None:
            self._hello_file.touch()
        self._write_down()
        if self._consumer is not None:
            self._say(self._consumer)  # a solo pool's first task may keep this thread for long

    def _on_received(self, request: Any = None, **_: Any) -> None:
        """Runs on the consumer's thread: between two looks, short tasks in any number would be taken."""
        if getattr(request, "eta", None):
            return  # it has no slot yet; where it gets one it is counted as any task that runs
        self._received += 1
        if self._received >= self._letter.concurrency and self._consumer is not None and not self._cancelling:
            tasks = self._consumer.task_consumer
            for message in self._refuse(tasks):
                message.requeue()
            tasks.on_message = operator.methodcaller("requeue")  # SQS brings several at a time

    def _take_sigterm(self, sender: Any = None, **_: Any) -> None:
        """Drain on SIGTERM as on any other reason: Celery's own way waits for running tasks without limit."""

        def on_sigterm(*_: Any) -> None:
            if not self._told:
                self.tell("SIGTERM")
                signals.worker_shutting_down.send(
                    sender=getattr(sender, "hostname", None), sig="SIGTERM", how="Warm", exitcode=0
                )

        signal.signal(signal.SIGTERM, on_sigterm)

    def _on_shutdown(self, *_: Any, **__: Any) -> dict[str, str]:
        """Drain when remote control says `shutdown`: Celery's own way waits for tasks without limit, and tasks that
        just finished were seen to run again, as it does not always acknowledge them."""
        self.tell("remote control")
        return {"ok": "the runner drains"}

    def _on_told(self, sig: str = "a signal", **_: Any) -> None:
        if self._told:
            return
        # The worker's own shutdown is under way already: this one only says why.
        self.phase, self.ending = Phase.STOPPED, Ending(reason=f"told by {sig}")


def _held() -> int:
    """Return how many tasks the worker has: Celery 5.4 forgets when it connects anew that those were reserved which
    still run. Safe in any thread: the length of a set of Celery's is, what is in it is not."""
    return max(len(state.reserved_requests), len(state.active_requests))


def _consumes(consumer: Any) -> bool:
    """Tell whether the worker takes tasks, which remote control may have told it to do again."""
    tasks = consumer.task_consumer
    return tasks is not None and any(tasks.consuming_from(queue) for queue in tasks.queues)


def _asks(consumer: Any) -> bool:
    """Tell whether Redis was asked for a task before consuming stopped, and may yet answer with one."""
    return bool(getattr(consumer.task_consumer and consumer.task_consumer.channel, "_in_poll", None))


def _waiting(consumer: Any) -> list[Any]:
    """Take the messages from the worker's hands that wait for a slot of its pool; on the consumer's thread."""
    semaphore = consumer.controller.semaphore
    requests = [args[0] for _, args, _ in semaphore._waiting] if semaphore is not None else []
    if requests:
        semaphore._waiting.clear()
    for request in requests:
        state.reserved_requests.discard(request)
        state.requests.pop(request.id, None)
    # Custody may have given one back that waited too long, and left it where it stood.
    return [request.message for request in requests if not request.message.acknowledged]


class TerminatorStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Tells the terminator which consumer the worker has at the moment."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, flame_terminator: Terminator | None = None, **options: Any) -> None:
        self._terminator = flame_terminator
        super().__init__(consumer, **options)

    def include_if(self, _: Any) -> bool:
        """Only a worker that `flame child` started has a terminator."""
        return self._terminator is not None

    def start(self, consumer: Any) -> None:
        """The worker connected."""
        if self._terminator is not None:
            release_stragglers(consumer.connection)
            self._terminator.attach(consumer)

    def stop(self, _: Any) -> None:
        """The worker is about to close its channels, or lost them."""
        if self._terminator is not None:
            self._terminator.detach()
