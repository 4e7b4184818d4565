"""Is no task lost and no machine left when things go wrong for minutes? `python -m tests.box.soak --minutes 10`

Waves of tasks, which count their own runs, meet a fleet to which something is done every few seconds. What is sent and
done follows from the seed; to whom it is done, and what comes of it, from the machine's pace too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from tests.box import rootfs
from tests.box.box import Box, Instance
from tests.box.burst import PROJECT, ROOT, Burst, build_release
from tests.box.cgroup import Cgroup
from tests.box.mischief import Mischief
from tests.box.rootfs import BoxUnusable
from tests.servers import LastingRedisServer, RabbitServer, RedisServer, Server, ServerMissing
from tests.waiting import wait_until
from tests.workers import Program

#: Appended to the example project: a task that counts its own runs where no fault reaches.
COUNTED = '''

@app.task
def count(number: int, seconds: float, url: str) -> None:
    """Sleep, and note beginning and end."""
    from redis import Redis

    with Redis.from_url(url) as counts:
        counts.hincrby("begun", str(number), 1)
        time.sleep(seconds)
        counts.hincrby("done", str(number), 1)
'''
TYPES = ["t3.nano", "t3.micro", "t3.small", "t3.medium", "c7i.large", "c6i.large"]  #: one that is refused rests
POOL = {"max": 3, "max_concurrency": 4, "idle_shutdown_after": 5, "shutdown_timeout": 10}
HANG_MINUTES = 8.0  #: a soak of fewer has no time for workers that only their watchdogs end
SETTLE = 600.0  #: seconds in which all that was sent must be done, and all that was launched gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What came of a soak."""

    seed: int
    seconds: float
    waves: int
    sent: int
    done: Counter[str]  #: runs of each task that was done
    faults: Counter[str]
    ended: Counter[str]  #: instances by what ended them, as EC2 knows it
    words: Counter[str]  #: the same as the machines' own last words tell it
    reasons: Counter[str]  #: the same as parents tell it
    left: tuple[str, ...]  #: what still was there at the end, and should not

    @property
    def lost(self) -> int:
        return self.sent - len(self.done)

    @property
    def good(self) -> bool:
        """Whether no task was lost, every instance is terminated, and nothing is left."""
        return not self.lost and not self.left and all(end.startswith("terminated") for end in self.ended)

    def __str__(self) -> str:
        groups = {"fault": self.faults, "ended": self.ended, "machines": self.words, "parents": self.reasons}
        rows = [
            ("seed", self.seed), ("seconds", f"{self.seconds:.0f}"), ("waves", self.waves), ("tasks sent", self.sent),
            ("runs", self.done.total()), ("tasks run more than once", sum(runs > 1 for runs in self.done.values())),
            ("tasks lost", self.lost), ("instances launched", self.ended.total()),
            *((f"{group}: {name}", count) for group, found in groups.items() for name, count in sorted(found.items())),
            ("left", ", ".join(self.left) or "nothing"),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value:>8}" for name, value in rows)


class Soak:
    """One soak; a loud one prints a line for each wave and fault."""

    def __init__(self, *, seconds: float, seed: int, broker: str = "redis", loud: bool = False) -> None:
        self._seconds, self._seed, self._kind, self._loud = seconds, seed, broker, loud
        self._began = time.monotonic()
        self._dice = random.Random(seed)
        self._sent = self._waves = 0

    def run(self, directory: Path) -> Report:
        """Play it to its end, in a box of its own; nothing is left of that, however this ends."""
        bundle = build_release(directory / "proj.tar.gz", _project(directory / "project"))
        with RedisServer() as notes, self._broker() as broker, Box(directory / "consoles") as box:
            with self._deployed(box, directory, broker, notes, bundle) as burst:
                mischief = Mischief(burst, broker, self._dice, hang=self._seconds >= 60 * HANG_MINUTES)
                self._play(burst, mischief, notes)
                self._settle(burst, notes)
                left = tuple(waiting(broker))
            done, instances = runs(notes), box.instances()
        return Report(
            seed=self._seed, seconds=time.monotonic() - self._began, waves=self._waves, sent=self._sent, done=done,
            faults=mischief.done, ended=Counter(f"{each.state}, {each.cause}" for each in instances),
            words=last_words(instances), reasons=reasons(burst.programs), left=(*left, *remains()),
        )  # fmt: skip

    def _broker(self) -> Server:
        return RabbitServer() if self._kind == "rabbitmq" else LastingRedisServer()

    @contextlib.contextmanager
    def _deployed(self, box: Box, directory: Path, broker: Server, notes: RedisServer, bundle: Path) -> Iterator[Burst]:
        url = box.upload(bundle, "proj/1.tar.gz")
        machines = {"instance_type": TYPES, "market": ["spot", "on-demand"], "subnet_id": list(box.cloud.subnet_ids)}
        with Burst(
            box, directory, broker=broker.url, results=notes.url, bundle_url=url, pool=POOL, ec2=machines
        ) as burst:
            burst.parent("flame", "serve")
            yield burst

    def _play(self, burst: Burst, mischief: Mischief, notes: RedisServer) -> None:
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            self._send(burst, notes, self._dice.randint(10, 60))
            for _ in range(self._dice.randint(1, 4)):
                time.sleep(self._dice.uniform(1.0, 5.0))
                self._say(mischief.strike())

    def _send(self, burst: Burst, notes: RedisServer, count: int) -> None:
        self._waves += 1
        with burst.client.producer_pool.acquire(block=True) as producer:
            for number in range(self._sent, self._sent + count):
                arguments = (number, round(self._dice.uniform(0.05, 2.0), 2), notes.url)
                burst.client.send_task("proj.tasks.count", arguments, producer=producer, ignore_result=True)
        self._sent += count
        self._say(f"wave {self._waves}: {count} tasks")

    def _settle(self, burst: Burst, notes: RedisServer) -> None:
        """End every fault; wait until all is done and everybody gone, or it is clear that this will not be."""
        burst.box.cloud.heal()
        self._say("no more faults")
        with contextlib.suppress(AssertionError):  # the report says what is missing
            wait_until(lambda: len(runs(notes)) == self._sent, what="the end of all tasks", timeout=SETTLE, poll=0.5)
            burst.box.wait_until_empty(SETTLE)

    def _say(self, what: str | None) -> None:
        if what and self._loud:
            print(f"{time.monotonic() - self._began:7.1f}  {what}", flush=True)


def _project(directory: Path) -> Path:
    """Copy the example project, with one more task; return where."""
    shutil.copytree(PROJECT, directory)
    tasks = directory / "proj" / "tasks.py"
    tasks.write_text(tasks.read_text() + COUNTED)
    (directory / "requirements.txt").write_text(f"celery[redis]\n{ROOT}\n")
    return directory


def runs(notes: RedisServer) -> Counter[str]:
    """Return how often each task was done."""
    with Redis.from_url(notes.url, decode_responses=True) as client:
        return Counter({number: int(count) for number, count in client.hgetall("done").items()})


def waiting(broker: Server) -> Iterator[str]:
    """Yield what runners or tasks left at a broker that is Redis."""
    if isinstance(broker, RedisServer):
        with Redis.from_url(broker.url, decode_responses=True) as client:
            yield from (
                key for key in client.scan_iter() if key == "celery" or key.startswith(("flame:held:", "unacked"))
            )


def last_words(instances: Sequence[Instance]) -> Counter[str]:
    """Return what instances wrote on their consoles about their ends."""
    said = [re.findall(r"flame: (ended \(.*?\)|boot failed: \w+)", each.console) for each in instances]
    return Counter(words[-1] if words else "nothing said" for words in said)


def reasons(parents: Sequence[Program]) -> Counter[str]:
    """Return why runners ended, as parents said it: each once, its figures left out."""
    said = dict(re.findall(r"pool burst: (i-\w+) ended: (.+)", "\n".join(parent.output for parent in parents)))
    return Counter(re.sub(r"\b\d+\b", "n", reason) for reason in said.values())


def remains() -> Iterator[str]:
    """Yield what this process's boxes left on this machine: directories, control groups, mounts."""
    own = f"{os.getpid()}-"
    boxes = rootfs.cache_directory() / "boxes"
    for place in (boxes, Cgroup("any").path.parent):
        yield from (str(path) for path in place.glob(f"{own}*"))
    mounts = Path("/proc/self/mounts").read_text()
    yield from (line for line in mounts.splitlines() if f"{boxes}/{own}" in line)


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.box.soak", description=__doc__.partition("?")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--broker", choices=("redis", "rabbitmq"), default="redis")
    chosen = parser.parse_args(words)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # a profile of the user's own has no part in this
    try:
        with tempfile.TemporaryDirectory(prefix="flame-soak-") as directory:
            soak = Soak(seconds=60 * chosen.minutes, seed=chosen.seed, broker=chosen.broker, loud=True)
            report = soak.run(Path(directory))
    except (BoxUnusable, ServerMissing) as exc:
        print(f"The box cannot be opened: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"\n{report}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
