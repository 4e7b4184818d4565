"""What does one round do for one pool: look, decide, act?"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from . import boot, signals
from .backends.base import Backend
from .config import Ec2Options, PoolSettings, Settings
from .errors import LaunchError, LaunchUnclear
from .experience import ENOUGH, LASTING, Arrivals, Experience, Work
from .lifetime import kind_of
from .notes import ENDINGS, LONGEST_REASON, Bill, Ended, Learned, Left, Standing
from .orders import Order, Orders
from .override import Override, bounded, explained
from .parent import Parent
from .policy import CAPACITY, FORGET_AFTER, Demand, Fleet, Plan, Unknown, room
from .presence import REPEAT, Word
from .roster import Change, Event, Open, Roster
from .runner import Runner, RunnerState
from .uptime import phases

logger = logging.getLogger(__name__)

#: What `flame_policy` names.
Policy = Callable[[PoolSettings, Demand | Unknown, Fleet | Unknown, float], Plan]
#: Tells runners, by their ids, to take no more work from these queues or to take it again; False where it could not.
Tell = Callable[[Order, Sequence[str], Collection[str]], bool]
#: Keeps runners that boot from ever working; returns those of them that will not.
Recall = Callable[[Collection[str]], Collection[str]]
#: Seconds between two notes of what was learned.
NOTE_EVERY = 60.0


class Pool:
    """The runners of one flame pool, as its parent handles them. `settings.max_concurrency` is known."""

    def __init__(
        self,
        settings: PoolSettings,
        *,
        deployment: Settings,
        backend: Backend,
        policy: Policy,
        tell: Tell,
        recall: Recall,
    ) -> None:
        self.settings = settings
        self.speaks = deployment.speaks(settings)
        self.roster = Roster(settings.name, visible_within=backend.visible_within)
        #: Tells these settings from others: what failed with others may go well now.
        self.fingerprint = _fingerprint(settings)
        self.plan: Plan | None = None
        #: The last decision that changed something, and when it was made.
        self.news, self.news_at = "", 0.0
        #: What an operator decided.
        self.override = Override()
        #: For the runners that ended.
        self.bill = Bill()
        #: The last runners that ended, the newest last.
        self.endings: tuple[Ended, ...] = ()
        #: What this pool's queue taught.
        self.past = Experience()
        self._learned: Learned | None = None
        #: Boots nothing was learned from yet, in seconds, and whether the parent's own processes were counted last.
        self._boots: list[float] = []
        self._with_local = False
        self._changes: tuple[Change, ...] = ()
        self._deployment = deployment
        self._backend = backend
        self._policy = policy
        self._tell_runners, self._orders = tell, Orders()
        self._recall_runners = recall
        #: Runners that this policy cordoned, by id: whether they confirmed it. It may take them back.
        self._cordoned: dict[str, bool] = {}

    def look(
        self,
        listed: Iterable[Runner] | None,
        words: Mapping[str, Word],
        now: float,
        *,
        hears: bool = True,
        since: float | None = 0.0,
    ) -> None:
        """Take in what the backend lists (None: nothing new) and what the runners say, if they can be heard at all.

        `since` is when they began to be heard again, in seconds since the epoch, None while they are not.
        """
        self._changes = self.roster.update(listed, words, now)
        if not hears:
            self.roster.take_for_up(self.settings.ec2.boot_timeout, now)
        if since is not None:
            took = (change.seconds for change in self._changes if change.seconds is not None)
            # One whose launch nobody listened after may be up for long.
            self._boots += [self._boot(seconds) for seconds in took if now - seconds > since - REPEAT]

    def learn(self, now: float, *, waiting: int, running: int, local: tuple[int, int] | None = None) -> None:
        """Learn from the tasks that wait and that run on runners.

        `local` are those that run and that were ever taken in the parent's own processes, where those take no others.
        """
        if self.roster.joined or self._with_local != (local is not None):
            self.past = self.past.missed()  # what is counted is more, or less, than it was
        self._with_local = local is not None
        running_here, taken_here = local or (0, 0)
        self.past = self.past.after(
            waiting=waiting,
            running=running + running_here,
            taken=self.roster.taken + taken_here,
            now=now,
            boots=self._boots,
        )
        self._boots = []
        self._learned = _learned(self.past, self._learned, now)

    def miss(self) -> None:
        """Learn nothing: what waits, or what runners do, is not known."""
        self.past = self.past.missed()

    def _boot(self, seconds: float) -> float:
        return min(max(0.0, seconds), self.settings.ec2.boot_timeout)

    def adopt(self, left: Left, now: float) -> None:
        """Go on from what the parent before left: count its launches, and remember what failed."""
        for launch in left.launches:
            if launch.pool == self.settings.name and launch.token not in self.roster.open_tokens:
                self.roster.asked(launch, now, tries=0)
        self.overrule(left.decisions.of(self.settings.name, self.override))
        standing = left.standings.get(self.settings.name)
        if standing is not None:
            self.endings, self.bill = standing.endings, standing.bill
        if standing is not None and standing.settings == self.fingerprint and standing.failures.at > now - FORGET_AFTER:
            self.roster.failures = standing.failures
        if standing is not None and standing.learned is not None:
            self.past = _recalled(standing.learned, self.past, now)
            self._learned = _learned(self.past, None, now)

    @property
    def standing(self) -> Standing:
        """How it stands, for the next parent and for who looks."""
        return Standing(
            failures=self.roster.failures,
            decision=self.news,
            decided_at=self.news_at,
            settings=self.fingerprint,
            endings=self.endings,
            learned=self._learned,
            bill=self.bill,
            release=self._backend.release(self.settings),
        )

    def overrule(self, override: Override) -> None:
        """Take in what an operator decided."""
        if override != self.override:
            told = str(override) or f"no longer {self.override}"
            self._say("override", "pool %s: %s", told, reason=told)
            self.override = override

    def tell(self, now: float, *, hears: bool) -> None:
        """Log and signal what the last look found; for the one parent that acts, or all would say the same."""
        told: dict[str, str] = {}
        known = {ended.runner_id for ended in self.endings}  # the parent before may have told its end already
        changes = [change for change in self._changes if change.event is Event.UP or change.runner.id not in known]
        reasons = [reason for change in changes if (reason := self._tell(change, now, told, hears=hears))]
        if reasons:
            signals.pool_shrank.send(sender=self.settings.name, count=len(reasons), reason=reasons[0])

    def fleet(self, now: float) -> Fleet:
        """Return the runners as a policy sees them: whom somebody else cordoned is not to be taken back, and ends."""
        roster = self.roster
        runners = tuple(
            dataclasses.replace(runner, state=RunnerState.ENDING)
            if runner.state is RunnerState.CORDONED and runner.id not in self._cordoned
            else runner
            for runner in roster.runners
        )
        return Fleet(runners=runners, unclear=roster.unclear(now), failures=roster.failures)

    def decide(self, demand: Demand | Unknown, now: float, *, listing: Unknown | None) -> Plan:
        """Plan this round. `listing` says why the fleet is unknown."""
        wanted = self._policy(bounded(self.settings, self.override), demand, listing or self.fleet(now), now)
        plan = explained(wanted, self.override)
        level = logging.DEBUG
        if self._is_news(plan):
            level, self.news, self.news_at = logging.INFO, in_words(plan), round(now, 1)
        self._say("decided", "pool %s: %s", in_words(plan), level=level, reason=plan.reason, count=plan.launch)
        self.plan = plan
        return plan

    def act(self, plan: Plan, now: float, *, since: float | None = 0.0) -> bool:
        """Do what the plan says, never beyond `max`; return whether there may be other runners now.

        `since` as `look` has it, and as it is by now.
        """
        asked_again = self._ask_again(plan, now)
        # What was asked for again may be what the plan wants: the next round knows.
        launch = 0 if asked_again else min(plan.launch, room(bounded(self.settings, self.override), self.fleet(now)))
        warm = min(plan.warm, launch)
        for is_warm, count in ((True, warm), (False, launch - warm)):
            if count > 0:
                self._launch(count, plan.reason, now, warm=is_warm)
        self._order(plan, now)
        return self._recall(plan, since) or asked_again or launch > 0

    def _recall(self, plan: Plan, since: float | None) -> bool:
        """End runners that boot in vain; only ever those that can take no task any more."""
        able = self.roster.recallable(plan.recall, since)
        recalled = sorted(self._recall_runners(able)) if able else ()
        if recalled:
            self._say("recalled", "pool %s: recalled %s", ", ".join(recalled), runners=recalled, count=len(recalled))
            self.roster.recalled(recalled)
            self._backend.terminate(recalled)
        return bool(recalled)

    def _order(self, plan: Plan, now: float) -> None:
        self._remember_cordons(plan)
        wanted = {**dict.fromkeys(plan.cordon, Order.CORDON), **dict.fromkeys(plan.uncordon, Order.UNCORDON)}
        for order, runners in self._orders.due(wanted, self.roster.runners, now).items():
            ids = [runner.id for runner in runners]
            if self._tell_runners(order, self.settings.queues, ids):
                verb = order.name.lower()
                self._say(verb, "pool %s: told to %s: %s", verb, ", ".join(ids), runners=ids, count=len(ids))

    def _remember_cordons(self, plan: Plan) -> None:
        """Remember whom the plan cordons until they are up again, or gone."""
        if not (plan.cordon or self._cordoned):
            return
        states = {runner.id: runner.state for runner in self.roster.runners}
        kept = {
            runner_id: confirmed or states[runner_id] is RunnerState.CORDONED
            for runner_id, confirmed in self._cordoned.items()
            if runner_id in states and not (confirmed and states[runner_id] is RunnerState.UP)
        }
        self._cordoned = dict.fromkeys(plan.cordon, False) | kept

    def _launch(self, count: int, reason: str, now: float, *, warm: bool) -> None:
        before = self.roster.open_tokens
        try:
            runners = self._backend.launch(letter(self._deployment, self.settings, warm=warm), count)
        except LaunchError as exc:
            self.roster.answered(self.roster.open_tokens - before)
            self._fail(str(exc), now, kind=exc.kind, pause=exc.retry_in)
        except LaunchUnclear as exc:
            self._count(exc.launched, reason, now)
            self.roster.answered(self.roster.open_tokens - before - set(exc.tokens))
            self._fail(str(exc), now, kind="unanswered")
        else:
            self._count(runners, reason, now)
            self.roster.answered(self.roster.open_tokens - before)

    def _ask_again(self, plan: Plan, now: float) -> bool:
        """Ask for what came of launches that were not answered, while they are still wanted; True where one was due."""
        due = self._due_again(plan, now)
        for held in due:
            try:
                runners = self._backend.ask_again(held.launch.token)
            except LaunchError as exc:
                self.roster.answered([held.launch.token])
                self._say("refused", "pool %s: nothing came of an unanswered launch: %s", exc, reason=str(exc))
            except LaunchUnclear as exc:
                self.roster.asked(held.launch, now, tries=held.tries + 1)
                self._say("unanswered", "pool %s: a launch is still not answered: %s", exc, reason=str(exc))
            else:
                self._answered(held, runners, now)
        return bool(due)

    def _due_again(self, plan: Plan, now: float) -> list[Open]:
        """Return the open launches to ask for again: were they never sent, they would bring no more than is wanted."""
        missing = 0 if plan.wanted is None else plan.wanted - self.fleet(now).count(*CAPACITY)
        due: list[Open] = []
        for held in self.roster.unanswered(now):
            if held.unseen <= missing:
                missing -= held.unseen
                due.append(held)
        return due

    def _answered(self, held: Open, runners: tuple[Runner, ...] | None, now: float) -> None:
        if runners is None:
            self.roster.asked(held.launch, held.asked_at, tries=0)  # never sent, or by another: it counts for its while
            return
        self._count(runners, "the answer to a launch before", now)
        self.roster.answered([held.launch.token])

    def _count(self, runners: tuple[Runner, ...], reason: str, now: float) -> None:
        fresh = self.roster.launched(runners, now)
        for runner in fresh:
            signals.runner_launched.send(sender=self.settings.name, runner=runner, reason=reason)
        if fresh:
            signals.pool_grew.send(sender=self.settings.name, count=len(fresh), reason=reason)
            ids = [runner.id for runner in fresh]
            told = ", ".join(ids)
            self._say("launched", "pool %s: launched %s", told, runners=ids, count=len(ids), reason=reason)

    def _tell(self, change: Change, now: float, told: dict[str, str], *, hears: bool) -> str:
        """Tell one change; return why a runner ended, empty where none did."""
        if change.event is Event.UP:
            self._tell_up(change, now)
            return ""
        runner = change.runner
        launch = runner.launch or runner.id
        silent = not change.heard and kind_of(change.reason) != "recalled"
        if silent and launch not in told:  # those of one launch end alike, and asking why takes calls
            told[launch] = self._boot_failure(runner, certain=change.ours and hears)
        cause = told[launch] if silent else ""
        if cause:
            self._fail(f"{runner.id} did not come up: {cause}", now, kind="boot", launch=launch)
        unknown = "it gave no reason" if self.speaks else "its program ended"
        reason = cause or change.reason or unknown
        self._tell_end(runner, reason, now, kind="boot" if cause else kind_of(change.reason))
        return reason

    def _tell_up(self, change: Change, now: float) -> None:
        runner, seconds = change.runner, now - change.runner.launched_at
        if not change.ours and seconds > self.settings.ec2.boot_timeout:
            self._say("adopted", "pool %s: adopted %s", runner.id, runner=runner.id)  # it came up for another parent
            return
        text, took = "pool %s: %s is up, %.1f s after its launch", round(seconds, 1)
        self._say("up", text, runner.id, seconds, runner=runner.id, seconds=took)
        parts = phases(seconds, change.ages)
        signals.runner_up.send(sender=self.settings.name, runner=runner, seconds=seconds, phases=parts)

    def _tell_end(self, runner: Runner, reason: str, now: float, *, kind: str) -> None:
        if kind != "boot":  # which was told as a failed launch
            lived = round(now - runner.launched_at, 1)
            text = "pool %s: %s ended: %s"
            self._say("ended", text, runner.id, reason, runner=runner.id, reason=reason, seconds=lived)
        self._remember(runner, reason, now)
        signals.runner_ended.send(sender=self.settings.name, runner=runner, reason=reason, kind=kind)

    def _remember(self, runner: Runner, reason: str, now: float) -> None:
        ended = Ended(
            runner_id=runner.id,
            reason=reason[:LONGEST_REASON],
            at=round(now, 1),
            launched_at=round(runner.launched_at, 1),
            instance_type=runner.instance_type,
            market=runner.market,
            zone=runner.zone,
        )
        self.endings = (*self.endings, ended)[-ENDINGS:]
        self.bill = self.bill.after(runner.launched_at, now)

    def _boot_failure(self, runner: Runner, *, certain: bool) -> str:
        """Return why a runner that never spoke failed to boot; empty when it may have been well."""
        words = self._backend.last_words(runner.id)
        told = boot.failure(words)
        if told or not certain:
            return told or ""
        last = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "it left no output")
        return f"it was gone before its hello; last line: {last}"

    def _fail(
        self, cause: str, now: float, *, kind: str, launch: str | None = None, pause: float | None = None
    ) -> None:
        self.roster.failed(cause, now, launch=launch, pause=pause)
        self._say("launch_failed", "pool %s: launch failed: %s", cause, level=logging.ERROR, reason=cause)
        signals.launch_failed.send(sender=self.settings.name, reason=cause, kind=kind)

    def _say(self, event: str, text: str, *words: object, level: int = logging.INFO, **fields: object) -> None:
        """Log a line that begins with the pool's name, and carries what it says for machines too."""
        name = self.settings.name
        logger.log(level, text, name, *words, extra={"event": event, "pool": name, **fields})

    def _is_news(self, plan: Plan) -> bool:
        if plan.launch:
            return True
        orders, before = plan.orders, self.plan
        if any(orders.values()) and (before is None or orders != before.orders):
            return True
        return plan.held != (self.plan is not None and self.plan.held)


def _learned(past: Experience, before: Learned | None, now: float) -> Learned | None:
    """Return what is worth a note: no more often than need be, and nothing anew while nothing happens."""
    if before is not None and now - before.at < NOTE_EVERY:
        return before
    runtime = round(past.runtime, 3) if past.ended >= ENOUGH else None
    arriving = round(past.arrivals.rate, 4)
    learned = Learned(at=round(now, 1), runtime=runtime, boot=round(past.boot, 1), arriving=arriving)
    if before is not None and not arriving and dataclasses.replace(learned, at=before.at) == before:
        return before
    return learned


def _recalled(learned: Learned, own: Experience, now: float) -> Experience:
    """Go on from what the parent before learned; what this one saw of the queue itself is newer."""
    if learned.runtime is None or own.ended >= ENOUGH:
        return dataclasses.replace(own, boot=learned.boot)
    work = Work(seconds=learned.runtime * ENOUGH, ended=ENOUGH)
    fresh = max(0.0, 1.0 - max(0.0, now - learned.at) / LASTING)
    arrivals = Arrivals(since=now, lasting=learned.arriving * fresh)
    return Experience(arrivals=arrivals, quick=work, slow=work, ended=ENOUGH, boot=learned.boot)


def _fingerprint(settings: PoolSettings) -> str:
    fields = json.dumps(dataclasses.asdict(settings), sort_keys=True, default=str)
    return hashlib.sha256(fields.encode()).hexdigest()


def in_words(plan: Plan) -> str:
    """Return what a plan does, and why."""
    counts = {"launch": plan.launch, **{verb: len(ids) for verb, ids in plan.orders.items()}}
    said = ", ".join(f"{verb} {count}" for verb, count in counts.items() if count)
    return f"{said or ('hold' if plan.held else 'nothing to do')}: {plan.reason}"


def letter(deployment: Settings, pool: PoolSettings, *, warm: bool) -> Parent:
    """Return what a runner of this pool is told; `warm` for one of those that make up `min`."""
    return Parent(
        owner=deployment.owner,
        pool=pool.name,
        backend=deployment.backend,
        queues=pool.queues,
        concurrency=pool.max_concurrency or 1,
        limits=pool.limits(warm=warm),
        worker_options=pool.worker_options,
        warm=warm,
        metadata=_metadata(pool.ec2) if deployment.backend == "ec2" else {},
        board=deployment.board,
    )


def _metadata(ec2: Ec2Options) -> dict[str, str]:
    """Return where a runner finds its metadata, where that is not what EC2 itself has."""
    own = Ec2Options()
    places = {"url": ec2.instance_metadata_url, "token_url": ec2.instance_metadata_token_url}
    return {} if places == {"url": own.instance_metadata_url, "token_url": own.instance_metadata_token_url} else places


def with_concurrency(settings: PoolSettings, backend: Backend) -> PoolSettings:
    """Return the pool with `max_concurrency` filled in by what the backend knows of its machines."""
    return dataclasses.replace(settings, max_concurrency=backend.concurrency(settings))
