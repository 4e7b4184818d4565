"""Is the benchmark's bound a bound, and does it judge against us where it is close?"""

from __future__ import annotations

import dataclasses
import random

import pytest

from benchmarks.policy import oracle
from benchmarks.policy.aims import Aims, beats, geometric_mean, is_no_worse, judge
from benchmarks.policy.contenders import DEFAULT, LONG_IDLE, contenders
from benchmarks.policy.oracle import foresee
from benchmarks.policy.runs import Row, Setting, play
from benchmarks.policy.table import aim_lines, lines
from celery_flame_ec2.simulate import Task

SHORT, LONG = "ours, target 0 s", "ours, target 120 s"
PEER = "keda redis list"
OURS = "celery_flame_ec2.policy:plan"


def row(contender: str, mean: float, billed: float, load: str = "burst") -> Row:
    return Row(
        load=load, contender=contender, tasks=1234, mean=mean, p95=2 * mean, p99=3 * mean, billed=billed, launches=7,
        peak=5, cpu=0.1,
    )  # fmt: skip


def judged(*rows: tuple[str, float, float]) -> Aims:
    return judge(row(*each) for each in rows)


class TestOracle:
    def test_no_task_waits_while_there_is_a_slot(self) -> None:
        source = random.Random(1)
        tasks = [Task(float(at), source.uniform(0, 50)) for at in range(200)]

        outcome = foresee(tasks, machines=100, slots=4)

        assert set(outcome.waits) == {0.0}
        assert len(outcome.waits) == len(tasks)

    def test_it_is_billed_the_work_and_no_more(self) -> None:
        outcome = foresee([Task(0.0, 10.0), Task(5.0, 20.0), Task(900.0, 2.0)], machines=100, slots=4)

        assert outcome.billed == 32 / 4
        assert outcome.peak == 1

    def test_beyond_all_slots_tasks_take_turns_in_the_order_they_came(self) -> None:
        outcome = foresee([Task(0.0, 10.0), Task(0.0, 4.0), Task(1.0, 5.0), Task(2.0, 1.0)], machines=1, slots=2)

        # The third begins when the second has ended, at 4; the fourth when the third has, at 9.
        assert list(outcome.waits) == [0.0, 0.0, 3.0, 7.0]
        assert outcome.peak == 1

    @pytest.mark.parametrize("contender", [*contenders(OURS, {})])
    def test_nobody_waits_less_or_is_billed_less(self, contender: str) -> None:
        setting, load = Setting(ours=OURS), "burst 200 x 60 s"

        bound, found = play(setting, load, oracle.NAME), play(setting, load, contender)

        assert found.tasks == bound.tasks == 200
        assert bound.mean <= found.mean
        assert bound.billed < found.billed


class TestPairs:
    def test_to_beat_is_to_be_better_on_both(self) -> None:
        one = row(DEFAULT, 10.0, 5.0)

        assert beats(one, row(PEER, 11.0, 6.0))
        assert not beats(one, row(PEER, 10.0, 6.0))
        assert not beats(one, row(PEER, 11.0, 5.0))

    def test_a_peer_as_good_on_one_and_better_on_the_other_is_better(self) -> None:
        one = row(DEFAULT, 10.0, 5.0)

        assert is_no_worse(row(PEER, 10.0, 4.0), one)
        assert is_no_worse(row(PEER, 9.0, 5.0), one)
        assert not is_no_worse(row(PEER, 10.0, 5.0), one)
        assert not is_no_worse(row(PEER, 9.0, 5.1), one)


class TestFirstAim:
    def test_it_is_met_where_no_peer_is_better_than_the_default(self) -> None:
        assert judged((DEFAULT, 10, 5), (PEER, 9, 6)).met[0]

    def test_a_peer_that_ties_on_one_and_is_better_on_the_other_is_told(self) -> None:
        aims = judged((DEFAULT, 10, 5), (PEER, 10, 4.9))

        assert aims.worse == (("burst", PEER),)
        assert not aims.met[0]

    def test_other_targets_of_ours_and_the_oracle_do_not_count(self) -> None:
        assert judged((DEFAULT, 10, 5), (SHORT, 20, 9), (oracle.NAME, 0, 1), (PEER, 15, 8)).met[0]


class TestSecondAim:
    def test_a_pair_is_beaten_by_any_one_of_ours_but_by_one_alone(self) -> None:
        assert judged((SHORT, 1, 9), (DEFAULT, 10, 5), (LONG, 50, 2), (PEER, 51, 3)).beaten == 1
        # Shorter waits by one of ours and a lower bill by another are not enough.
        assert judged((SHORT, 1, 9), (DEFAULT, 10, 5), (LONG, 50, 2), (PEER, 5, 4)).beaten == 0

    def test_a_tie_is_not_beaten(self) -> None:
        assert judged((DEFAULT, 10, 5), (PEER, 10, 9)).unbeaten == (("burst", PEER),)
        assert judged((DEFAULT, 10, 5), (PEER, 90, 5)).unbeaten == (("burst", PEER),)

    def test_two_thirds_of_the_pairs_are_enough(self) -> None:
        two_of_three = (DEFAULT, 10, 5), ("a", 11, 6), ("b", 11, 6), ("c", 1, 6)

        assert judged(*two_of_three).met[1]
        assert not judged(*two_of_three, ("d", 1, 6)).met[1]


class TestThirdAim:
    def test_counted_is_the_cheapest_of_ours_that_waits_no_longer(self) -> None:
        aims = judged((SHORT, 1, 9), (DEFAULT, 10, 5), (LONG, 50, 2), (LONG_IDLE, 10, 20))

        assert aims.ratio == pytest.approx(5 / 20)
        assert aims.met[2]
        assert not aims.without

    def test_where_none_of_ours_waits_as_short_the_shortest_target_counts(self) -> None:
        aims = judged((SHORT, 4, 9), (DEFAULT, 10, 5), (LONG, 50, 2), (LONG_IDLE, 3, 10))

        assert aims.ratio == pytest.approx(0.9)
        assert aims.without == ("burst",)

    def test_the_mean_over_loads_is_geometric(self) -> None:
        rows = [
            row(DEFAULT, 1, 1, "a"),
            row(LONG_IDLE, 1, 10, "a"),
            row(DEFAULT, 1, 9, "b"),
            row(LONG_IDLE, 1, 10, "b"),
        ]

        assert judge(rows).ratio == pytest.approx(0.3)
        assert geometric_mean([]) == 1


class TestTable:
    ROWS = (row(SHORT, 1, 9), row(DEFAULT, 10, 5), row(PEER, 10, 4.5), row(LONG_IDLE, 20, 10), row(oracle.NAME, 0, 2))

    def test_each_contender_stands_on_a_line_with_its_figures(self) -> None:
        text = list(lines(Setting(ours=OURS), self.ROWS))

        assert text[0] == "boot 60 s, 4 slots a runner; waits in s, billed in instance-hours"
        assert "burst: 1,234 tasks" in text
        (found,) = (line.split() for line in text if line.startswith(f"  {PEER} "))
        assert found[-7:] == ["10.00", "20.00", "30.00", "4.500", "2.25", "7", "5"]

    def test_below_each_load_stands_which_peer_is_better_on_both(self) -> None:
        text = list(lines(Setting(ours=OURS), self.ROWS))

        assert f"  better than {DEFAULT} on both: {PEER}" in text
        assert f"  better than {SHORT} on both: none" in text

    def test_without_the_oracle_there_is_no_ratio(self) -> None:
        text = list(lines(Setting(ours=OURS), self.ROWS[:-1]))

        assert next(line for line in text if PEER in line).split()[-3] == "-"

    def test_the_aims_say_what_is_met_and_what_keeps_them_from_it(self) -> None:
        text = list(aim_lines(judge(self.ROWS)))

        assert text[:2] == ["1. no peer is better than our default on both: NOT met", f"   burst: {PEER}"]
        assert "2. pairs of peer and load beaten on both by one of ours: 1 of 2, 50%, at least 67%: NOT met" in text
        assert f"   not on burst: {PEER}" in text
        assert "0.500, at most 0.5: met" in text[-2]

    def test_a_load_on_which_none_of_ours_waits_as_short_is_named(self) -> None:
        rows = [dataclasses.replace(each, mean=0.5) if each.contender == LONG_IDLE else each for each in self.ROWS]

        assert list(aim_lines(judge(rows)))[-1].endswith("(none of ours waits as short there: counted is target 0)")
