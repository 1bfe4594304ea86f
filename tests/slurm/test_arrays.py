"""From runs to arrays: every run once, classes kept apart, limits of the cluster and of the user, order of needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import Resources
from slurm.arrays import Array, plan_arrays, share, submit_arrays
from slurm.classes import Run, group, levels, split_evenly
from slurm.minutes import minutes_for
from slurm.profile import Profile

WIDE = Profile(cpus=4, memory_gib=8, minutes=60)


def plain(number: int, prefix: str = "r", **settings: Any) -> list[Run]:
    return [Run(f"{prefix}{index}", **settings) for index in range(number)]


@st.composite
def plans(draw: st.DrawFn) -> list[Run]:
    """Runs that need earlier ones or some outside of the plan, ask for little, and are sometimes short."""
    runs: list[Run] = []
    for index in range(draw(st.integers(1, 40))):
        earlier = [run.id for run in runs] + ["finished long ago"]
        asked = Resources(gpus=draw(st.sampled_from([None, 0, 2])), minutes=draw(st.sampled_from([None, None, 5])))
        needs = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True))
        seconds = draw(st.sampled_from([None, 30.0, 599.0, 600.0, 7200.0]))
        runs.append(Run(f"r{index}", tuple(needs), asked, seconds))
    return runs


profiles = st.builds(
    Profile,
    max_parallel=st.none() | st.integers(1, 12),
    max_array_size=st.integers(2, 9),
    pack=st.integers(1, 4),
    max_minutes=st.none() | st.integers(1, 90),
    cpus=st.integers(1, 4),
)


@given(plans(), profiles)
def test_plans_hold_every_run_once_within_all_limits_after_what_it_needs(runs: list[Run], profile: Profile) -> None:
    arrays = plan_arrays(runs, profile)
    assert sorted(run_id for array in arrays for run_id in array.run_ids) == sorted(run.id for run in runs)

    stage_of = {run_id: array.stage for array in arrays for run_id in array.run_ids}
    class_of = {run_id: array.job_class for array in arrays for run_id in array.run_ids}
    for run in runs:
        assert all(stage_of[need] < stage_of[run.id] for need in run.needs if need in stage_of)
        assert class_of[run.id].gpus == (run.asked.gpus or 0)
        assert class_of[run.id].cpus == profile.cpus

    for array in arrays:
        assert 1 <= len(array.jobs) <= (profile.max_array_size or 0)
        assert 1 <= array.parallel <= len(array.jobs)
        assert array.job_class.minutes <= (profile.max_minutes or array.job_class.minutes)
    for stage in stage_of.values():
        if profile.max_parallel is not None:
            assert sum(a.parallel for a in arrays if a.stage == stage) <= profile.max_parallel
    assert [array.stage for array in arrays] == sorted(array.stage for array in arrays)
    assert set(stage_of.values()) == set(range(max(stage_of.values()) + 1))


@given(plans(), profiles)
def test_only_short_runs_share_a_job_and_its_limit_covers_them_all(runs: list[Run], profile: Profile) -> None:
    by_id = {run.id: run for run in runs}
    for array in plan_arrays(runs, profile):
        for job in array.jobs:
            assert len(job) <= profile.pack
            members = [by_id[run_id] for run_id in job]
            if len(job) > 1:
                assert all(run.seconds is not None and run.seconds < 600 for run in members)
                assert len({run.asked for run in members}) == 1
            if members[0].asked.minutes is not None:
                wanted = len(job) * members[0].asked.minutes
            elif members[0].seconds is not None:
                wanted = minutes_for(sum(run.seconds or 0 for run in members))
            else:
                wanted = profile.minutes
            assert array.job_class.minutes >= min(wanted, profile.max_minutes or wanted)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_parts_are_as_few_and_as_equal_as_can_be(items: list[int], most: int) -> None:
    parts = split_evenly(items, most)
    assert [item for part in parts for item in part] == items
    assert len(parts) == -(-len(items) // most)
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.integers(20, 400))
def test_shares_use_the_whole_width_and_give_more_to_the_larger(sizes: list[int], width: int) -> None:
    shares = share(sizes, width)
    assert sum(shares) == min(width, sum(sizes))
    assert all(1 <= part <= size for part, size in zip(shares, sizes, strict=True))
    pairs = list(zip(sizes, shares, strict=True))
    assert all(part >= less or size <= other for size, part in pairs for other, less in pairs)


def test_1002_runs_become_two_equal_arrays_that_share_the_width() -> None:
    arrays = plan_arrays(plain(1002), Profile(max_parallel=65), max_array_size=1001)
    assert [len(array.jobs) for array in arrays] == [501, 501]
    assert [array.parallel for array in arrays] == [33, 32]
    assert [array.stage for array in arrays] == [0, 0]
    assert len(plan_arrays(plain(1001), Profile(), max_array_size=1001)) == 1


def test_more_classes_than_jobs_at_a_time_wait_for_each_other() -> None:
    runs = [Run(f"r{cpus}", asked=Resources(cpus=cpus)) for cpus in range(1, 6)]
    assert [(a.stage, a.parallel) for a in plan_arrays(runs, Profile(max_parallel=2))] == [
        (0, 1),
        (0, 1),
        (1, 1),
        (1, 1),
        (2, 1),
    ]


def test_a_run_asks_over_its_past_over_the_profile_and_the_command_line_over_all() -> None:
    run = Run("r", asked=Resources(gpus=1, minutes=30), seconds=3600)
    assert str(next(iter(group([run], WIDE)))) == "1 GPU, 4 CPUs, 8 GiB, 30 min"
    past = Run("r", asked=Resources(memory_gib=16), seconds=3600)
    assert str(next(iter(group([past], WIDE)))) == "0 GPUs, 4 CPUs, 16 GiB, 100 min"
    assert str(next(iter(group([Run("r")], WIDE)))) == "0 GPUs, 4 CPUs, 8 GiB, 60 min"
    above = Resources(minutes=5, cpus=1)
    assert str(next(iter(group([run], WIDE, above)))) == "1 GPU, 1 CPU, 8 GiB, 5 min"


def test_packed_jobs_hold_neighbours_in_equal_numbers() -> None:
    found = group(plain(9, seconds=120), Profile(pack=8))
    ((job_class, jobs),) = found.items()
    assert jobs == [("r0", "r1", "r2", "r3", "r4"), ("r5", "r6", "r7", "r8")]
    assert job_class.minutes == 25  # 1.5 x 5 x 2 + 10


def test_limits_from_the_past_that_are_close_become_one_class_and_others_stay() -> None:
    runs = [Run(f"r{minutes}", seconds=60.0 * minutes) for minutes in (40, 60, 80, 240)]  # 70, 100, 130, 370 minutes
    asked = Run("asked", asked=Resources(minutes=100))
    found = {job_class.minutes: jobs for job_class, jobs in group([*runs, asked], WIDE).items()}
    assert found == {100: [("asked",)], 370: [("r240",)], 130: [("r80",), ("r60",), ("r40",)]}


def test_levels_follow_needs_whatever_the_order_and_circles_are_refused() -> None:
    runs = [Run("c", ("b", "a")), Run("b", ("a",)), Run("a", ("elsewhere",)), Run("z")]
    assert [[run.id for run in level] for level in levels(runs)] == [["a", "z"], ["b"], ["c"]]
    with pytest.raises(ValueError):
        levels([Run("a", ("b",)), Run("b", ("a",))])
    with pytest.raises(ValueError, match="a is planned twice"):
        levels([Run("a"), Run("a")])


@dataclass
class Queue:
    """A cluster that takes so many elements and refuses a whole array that does not fit, as Slurm does."""

    limit: int
    taken: dict[str, tuple[Array, tuple[str, ...]]] = field(default_factory=dict)
    calls: int = 0

    def submit(self, array: Array, after: Sequence[str]) -> str | None:
        self.calls += 1
        if sum(len(a.jobs) for a, _ in self.taken.values()) + len(array.jobs) > self.limit:
            return None
        job_id = str(len(self.taken) + 1)
        self.taken[job_id] = (array, tuple(after))
        return job_id


def test_of_twelve_runs_a_limit_of_five_takes_the_first_five() -> None:
    queue = Queue(5)
    result = submit_arrays(plan_arrays(plain(12), Profile()), queue.submit)
    assert [run_id for part in result.submitted for run_id in part.array.run_ids] == ["r0", "r1", "r2", "r3", "r4"]
    assert result.left == ("r5", "r6", "r7", "r8", "r9", "r10", "r11")
    assert queue.calls < 10


@given(plans(), profiles, st.integers(0, 45), st.none() | st.integers(0, 45))
def test_submission_fills_the_queue_in_order_and_keeps_width_and_needs(
    runs: list[Run], profile: Profile, limit: int, room: int | None
) -> None:
    arrays, queue = plan_arrays(runs, profile), Queue(limit)
    result = submit_arrays(arrays, queue.submit, room)
    jobs = [job for array in arrays for job in array.jobs]
    sent = [job for part in result.submitted for job in part.array.jobs]
    assert sent == jobs[: min(limit, len(jobs) if room is None else room)]
    assert [run_id for job in sent for run_id in job] + list(result.left) == [r for job in jobs for r in job]
    assert [part.job_id for part in result.submitted] == list(queue.taken)

    ended_before = ancestors(queue)
    where = {run_id: job_id for job_id, (array, _) in queue.taken.items() for run_id in array.run_ids}
    for run in runs:
        if run.id in where:
            assert all(where[need] in ended_before[where[run.id]] for need in run.needs if need in where)
            assert all(need in where for need in run.needs if need != "finished long ago")


def ancestors(queue: Queue) -> dict[str, set[str]]:
    """For every job, those that have ended when it starts."""
    found: dict[str, set[str]] = {}
    for job_id, (_, after) in queue.taken.items():
        found[job_id] = set(after).union(*(found[earlier] for earlier in after))
    return found


@given(plans(), profiles, st.integers(1, 45), st.randoms(use_true_random=False))
def test_whatever_ends_first_never_more_than_max_parallel_run(
    runs: list[Run], profile: Profile, limit: int, random: Random
) -> None:
    queue = Queue(limit)
    submit_arrays(plan_arrays(runs, profile), queue.submit)
    ended: set[str] = set()
    while len(ended) < len(queue.taken):
        running = [i for i, (_, after) in queue.taken.items() if i not in ended and ended.issuperset(after)]
        at_a_time = sum(queue.taken[job_id][0].parallel for job_id in running)
        assert 1 <= at_a_time <= (profile.max_parallel or at_a_time)
        ended.add(random.choice(running))


def test_halves_of_one_job_at_a_time_wait_for_each_other() -> None:
    queue = Queue(3)
    submit_arrays(plan_arrays(plain(4), Profile(max_parallel=1)), queue.submit)
    assert [(len(array.jobs), after) for array, after in queue.taken.values()] == [(2, ()), (1, ("1",))]


def test_a_stage_waits_for_all_parts_of_the_stage_before() -> None:
    runs = [*plain(4), Run("last", ("r0",))]
    refuse = iter([None, "7", "8", "9"])
    seen: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def submit(array: Array, after: Sequence[str]) -> str | None:
        seen.append((array.run_ids, tuple(after)))
        return next(refuse)

    result = submit_arrays(plan_arrays(runs, Profile()), submit)
    assert result.left == ()
    assert seen == [
        (("r0", "r1", "r2", "r3"), ()),
        (("r0", "r1"), ()),
        (("r2", "r3"), ()),
        (("last",), ("7", "8")),
    ]


def test_halves_share_the_width_of_the_whole() -> None:
    queue = Queue(8)
    submit_arrays(plan_arrays(plain(10), Profile(max_parallel=4)), queue.submit)
    assert [(len(array.jobs), array.parallel, after) for array, after in queue.taken.values()] == [
        (5, 2, ()),
        (3, 1, ()),
    ]


def test_nothing_is_submitted_once_a_single_job_was_refused_even_if_there_is_room_again() -> None:
    asked: list[tuple[str, ...]] = []

    def submit(array: Array, after: Sequence[str]) -> str | None:
        asked.append(array.run_ids)
        return None if len(asked) == 1 else "9"

    result = submit_arrays(plan_arrays([Run("base"), Run("last", ("base",))], Profile()), submit)
    assert asked == [("base",)]
    assert (result.submitted, result.left) == ((), ("base", "last"))
