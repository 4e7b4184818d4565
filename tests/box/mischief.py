"""What may go wrong around a fleet, one fault at a time?"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.box.box import Box
from tests.box.burst import Burst
from tests.servers import Server

UNIT = "flame-release.service"
REFUSALS = (("InsufficientInstanceCapacity", 500), ("RequestLimitExceeded", 503), ("InternalError", 500))
PAUSE = 5.0  #: seconds a broker, or a worker, stands still
NOTICE = 25.0  #: seconds between a notice and the end of a spot instance: more than the margin a drain keeps


class Mischief:
    """Does one thing after the other to a deployment, the dice say in which order and to whom; all once, then again."""

    def __init__(self, burst: Burst, broker: Server, dice: random.Random, *, hang: bool) -> None:
        """Make it. `hang` is whether workers may be stopped for good: then only their watchdogs end them."""
        self.done: Counter[str] = Counter()
        self._burst, self._broker, self._dice = burst, broker, dice
        self._deck: list[str] = []
        self._faults: dict[str, Callable[[], bool | None]] = {
            "worker killed": lambda: self._in_guest("systemctl", "kill", "--signal=KILL", "--kill-who=main", UNIT),
            "pool process killed": self._kill_a_pool_process,
            "worker paused": self._pause_a_worker,
            "power cut": self._cut_power,
            "reboot": lambda: self._in_guest("systemctl", "reboot"),
            "reset": lambda: self._in_guest("reboot", "-ff"),
            "spot notice": self._give_notice,
            "parent killed": self.restart_parent,
            "launch refused": self._refuse_a_launch,
            "launch not answered": lambda: self._box.cloud.lose_answer("RunInstances"),
            "listing refused": lambda: self._box.cloud.fail(
                "DescribeInstances", code="InternalError", status=500, times=3
            ),
            "bundle refused": lambda: self._box.cloud.fail("GetObject", code="AccessDenied", status=403),
            "broker paused": self._pause_the_broker,
            "broker restarted": broker.restart,
        }
        if hang:
            self._faults["worker hung"] = lambda: self._in_guest(
                "systemctl", "kill", "--signal=STOP", "--kill-who=main", UNIT
            )

    def strike(self) -> str | None:
        """Do the next thing; return its name, or None where there was nobody to do it to: then it comes later."""
        if not self._deck:
            self._deck = self._dice.sample(sorted(self._faults), len(self._faults))
        name = self._deck.pop()
        if self._faults[name]() is False:
            self._deck.insert(0, name)
            return None
        self.done[name] += 1
        return name

    def restart_parent(self) -> None:
        """Kill the parent, and start another at once."""
        self._burst.programs[-1].kill()
        self._burst.parent("flame", "serve")

    @property
    def _box(self) -> Box:
        return self._burst.box

    def _victim(self) -> str | None:
        """Choose among the instances whose worker said hello."""
        running = sorted(each.instance_id for each in self._box.instances() if each.state == "running")
        up = [each for each in running if self._ask(each, "test", "-e", "/run/flame-release/hello") is not None]
        return self._dice.choice(up) if up else None

    def _ask(self, instance: str, *command: str) -> str | None:
        """Return what a command in a guest said; None where it failed, or where there is no such guest any more."""
        try:
            done = self._box.run(instance, *command)
        except (ProcessLookupError, KeyError, OSError):  # it ended meanwhile
            return None
        return done.stdout if done.returncode == 0 else None

    def _in_guest(self, *command: str) -> bool:
        victim = self._victim()
        if victim is not None:
            self._ask(victim, *command)  # a reset does not answer
        return victim is not None

    def _kill_a_pool_process(self) -> bool:
        victim = self._victim()
        main = self._ask(victim, "systemctl", "show", "--property=MainPID", "--value", UNIT) if victim else None
        pool = (self._ask(str(victim), "pgrep", "--parent", main.strip()) or "").split() if main else []
        return bool(pool) and self._ask(str(victim), "kill", "-KILL", self._dice.choice(pool)) is not None

    def _pause_a_worker(self) -> bool:
        victim = self._victim()
        if victim is None or self._ask(victim, "systemctl", "kill", "--signal=STOP", "--kill-who=main", UNIT) is None:
            return False
        time.sleep(PAUSE)
        self._ask(victim, "systemctl", "kill", "--signal=CONT", "--kill-who=main", UNIT)
        return True

    def _cut_power(self) -> bool:
        victim = self._victim()
        if victim is not None:
            self._box.cut_power(victim)
        return victim is not None

    def _give_notice(self) -> bool:
        victim = self._victim()
        if victim is not None:
            self._box.interrupt(victim, NOTICE)
        return victim is not None

    def _refuse_a_launch(self) -> None:
        code, status = self._dice.choice(REFUSALS)
        self._box.cloud.fail("RunInstances", code=code, status=status)

    def _pause_the_broker(self) -> None:
        self._broker.process.signal(signal.SIGSTOP)
        time.sleep(PAUSE)
        self._broker.process.signal(signal.SIGCONT)
