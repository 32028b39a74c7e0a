"""Rollouts on Lift in MuJoCo: episodes, warm workers, what is kept, and what a replay shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
from rollout_probe_policies import BEHAVIOUR, MISBEHAVING, SOUND_SEEDS, UNFIT, begins_solved, diverges

from science.robots.perturbations import CONTROL
from science.robots.policies.registry import find_policy
from science.robots.policies.scripted import make_expert
from science.robots.rollouts.episode import TIMES, Episode, hash_trajectory, last_stage, run_episode
from science.robots.rollouts.pool import RolloutError, RolloutPool, RolloutRequest, run_rollouts
from science.robots.rollouts.replay import replay
from science.robots.rollouts.store import EpisodeDamaged, EpisodeStore, Evaluation, evaluate
from science.robots.tasks.base import Simulation
from science.robots.tasks.registry import find_task

LIFT = find_task("open.Lift")
SCRIPTED = RolloutRequest("open.Lift", "scripted", engine="robosuite")
EPISODES = [(seed, arm) for seed in range(3) for arm in (CONTROL, "drop")]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def pool() -> Iterator[RolloutPool]:
    """Two warm workers."""
    with RolloutPool(2) as warm:
        yield warm


@pytest.fixture(scope="module")
def lift() -> Simulation:
    return LIFT.make("robosuite")


@pytest.fixture(scope="module")
def rows(pool) -> dict[tuple[int, str], dict]:
    """What two workers give for `EPISODES`."""
    return run(pool, SCRIPTED, EPISODES)


def run(pool: RolloutPool, request: RolloutRequest, episodes, on_episode=lambda episode: None, **limits) -> dict:
    """The lasting part of each episode's record."""
    found = {}

    def keep(episode: Episode) -> None:
        assert (episode.seed, episode.arm) not in found
        found[episode.seed, episode.arm] = lasting(episode)
        on_episode(episode)

    pool.run(request, episodes, keep, **limits)
    return found


def lasting(episode: Episode) -> dict:
    return {name: value for name, value in episode.record().items() if name not in TIMES}


def lasting_without_text(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "error"}


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "science.robots.rollouts.worker" in child.cmdline()]


def test_rows_are_the_same_with_one_worker_and_with_two(rows):
    assert len(rows) == len(EPISODES) and all(row["outcome"] == "success" for row in rows.values())
    with RolloutPool(1) as one:
        assert run(one, SCRIPTED, reversed(EPISODES)) == rows
        assert len(one.pids) == 1


def test_a_killed_worker_changes_no_row(pool, rows):
    before, killed = set(pool.pids), []

    def kill_one(episode: Episode) -> None:
        if not killed:
            killed.append(pool.pids[0])
            os.kill(killed[0], signal.SIGKILL)

    assert run(pool, SCRIPTED, EPISODES, kill_one) == rows
    assert killed[0] not in pool.pids and set(pool.pids) & before


def test_what_a_worker_runs_is_what_runs_here(lift, rows):
    assert lasting(run_episode(lift, make_expert(LIFT), 0)) == rows[0, CONTROL]


def test_a_policy_that_misbehaves_is_an_error_of_its_episode_and_harms_no_other(pool):
    request = replace(SCRIPTED, policy="misbehaving", policy_spec=MISBEHAVING)
    found = run(pool, request, [(seed, CONTROL) for seed in range(6)])
    expected = {
        1: "TypeError in policy.act at step 5: can't convert",
        2: "ActionError in policy.act at step 5: the policy gave an action that is not finite",
        3: "ActionError in policy.act at step 5: the policy gave an action outside",
        4: "ActionError in policy.act at step 5: the policy gave an action of shape (6,)",
    }
    for seed, text in expected.items():
        row = found[seed, CONTROL]
        assert (row["outcome"], row["stage"], row["steps"]) == ("error", "error", 5), BEHAVIOUR[seed]
        assert row["error"].startswith(text)
    sound = run(pool, SCRIPTED, [(seed, CONTROL) for seed in SOUND_SEEDS])
    assert {key: found[key] for key in sound} == sound


def test_a_policy_that_hangs_or_kills_its_worker_is_an_error_and_harms_no_other(pool, rows):
    request = replace(SCRIPTED, policy="misbehaving", policy_spec=MISBEHAVING)
    found = run(pool, request, [(seed, CONTROL) for seed in (101, 0, 102, 5)], time_limit_s=10.0)
    hung, killed = found[101, CONTROL], found[102, CONTROL]
    assert {row["outcome"] for row in (hung, killed)} == {"error"}
    assert hung["error"].startswith("TimeLimit: the episode did not end within 10 s")
    assert "in _spoilt" in hung["error"] and "about to hang" not in hung["error"]
    assert killed["error"].startswith("WorkerDied: 2 workers died of this episode, the last killed by SIGKILL")
    assert (hung["trajectory_hash"], hung["engine"]) == (None, "robosuite")
    assert found[0, CONTROL] == rows[0, CONTROL] and found[5, CONTROL]["outcome"] == "success"


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (replace(SCRIPTED, task="open.Fold"), "TaskError: found no task 'open.Fold'"),
        (replace(SCRIPTED, load="rollout_probe_policies:no_simulation"), "found no meshes of the gripper"),
        (
            replace(SCRIPTED, policy="unfit", policy_spec=UNFIT),
            "PolicyError: policy 'unfit' does not fit task open.Lift",
        ),
    ],
    ids=["task", "simulation", "policy"],
)
def test_what_cannot_start_is_one_error_and_leaves_no_process(request_, reason):
    seen, before = [], {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(RolloutError, match=reason) as raised:
        run_rollouts(request_, EPISODES, workers=2, on_episode=seen.append)
    assert "\n" not in str(raised.value) and not seen
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_episodes_that_begin_solved_are_a_class_of_their_own(pool):
    request = replace(SCRIPTED, load=f"{begins_solved.__module__}:{begins_solved.__name__}", engine="robosuite")
    found = run(pool, request, [(seed, CONTROL) for seed in (0, 1)])
    assert found[0, CONTROL]["outcome"] == "success"
    solved = found[1, CONTROL]
    assert (solved["outcome"], solved["stage"], solved["steps"]) == ("solved_at_reset", "solved_at_reset", 0)
    assert solved["success_step"] is None and solved["initial_state_hash"] is not None


def test_physics_that_diverge_are_an_error_and_no_failure(capfd):
    simulation = diverges(SCRIPTED)
    episode = run_episode(simulation, make_expert(LIFT), 0)
    assert episode.outcome == "error"
    assert episode.error.startswith("SimulationError in simulation.step at step 2: ")
    assert len(episode.states) == len(episode.actions) + 1 == len(episode.milestones) == 3


def test_random_actions_fail_and_the_stage_says_where(lift):
    episode = run_episode(lift, find_policy("random").make(LIFT), 0, horizon_steps=20)
    assert (episode.outcome, episode.stage, episode.steps) == ("failure", "no_reach", 20)
    assert episode.states.shape[0] == 21 and episode.actions.shape == (20, 7) and episode.milestones.shape == (21, 3)


STACK = ("reach", "grasp", "lift", "align", "release")
THREE = (*STACK, *(f"{name}_c" for name in STACK))


@pytest.mark.parametrize(
    ("names", "ever", "last", "holding", "stage"),
    [
        (STACK, "", "", False, "no_reach"),
        (STACK, "reach", "reach", False, "no_grasp"),
        (STACK, "reach grasp", "grasp", True, "no_lift"),
        (STACK, "reach grasp", "", False, "dropped"),
        (STACK, "reach grasp lift", "lift", True, "no_align"),
        (STACK, "reach grasp lift align", "align", True, "no_release"),
        (STACK, "reach grasp lift align", "align", False, "no_release"),
        (STACK, "reach grasp lift align", "reach", False, "dropped"),
        (STACK, "reach grasp lift align release", "", False, "timeout"),
        (STACK[:3], "reach grasp lift", "", False, "dropped"),
        (STACK[:3], "reach grasp lift", "", True, "timeout"),
        (THREE, " ".join(STACK), "release", False, "no_reach_c"),
        (THREE, " ".join(STACK) + " reach_c grasp_c", "release", False, "dropped"),
        (THREE, " ".join(THREE[:8]), "release lift_c", True, "no_align_c"),
    ],
)
def test_the_stage_is_the_first_milestone_that_was_never_reached_or_dropped(names, ever, last, holding, stage):
    milestones = np.array([[name in ever.split() for name in names], [name in last.split() for name in names]])
    assert last_stage(names, milestones, holding) == stage


def test_an_evaluation_runs_only_what_is_missing(pool, rows, tmp_path):
    store, ran = EpisodeStore(tmp_path), []

    def note(n_done: int, n_all: int, episode: Episode) -> None:
        ran.append((n_done, n_all, episode.seed, episode.arm))

    first = evaluate(store, SCRIPTED, [0, 1], [CONTROL], pool=pool, on_progress=note)
    assert sorted(ran) == [(1, 2, ran[0][2], CONTROL), (2, 2, ran[1][2], CONTROL)]
    ran.clear()
    every = evaluate(store, SCRIPTED, [0, 1], [CONTROL, "drop"], pool=pool, on_progress=note)
    assert sorted(each[3] for each in ran) == ["drop", "drop"] and [each[:2] for each in ran] == [(3, 4), (4, 4)]
    assert [(each.seed, each.arm) for each in every] == [(0, CONTROL), (1, CONTROL), (0, "drop"), (1, "drop")]
    assert [lasting(each) for each in every] == [rows[each.seed, each.arm] for each in every]
    assert np.array_equal(every[0].states, first[0].states) and every[0].milestones.dtype == bool
    assert store.present(Evaluation.of(SCRIPTED)) == {(each.seed, each.arm) for each in every}


def test_a_damaged_episode_is_named_and_run_again(pool, rows, tmp_path, caplog):
    store, evaluation, ran = EpisodeStore(tmp_path), Evaluation.of(SCRIPTED), []
    evaluate(store, SCRIPTED, [0, 1], [CONTROL], pool=pool)
    path = store.path(evaluation, 1, CONTROL)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(EpisodeDamaged, match=path.name):
        store.load(evaluation, 1, CONTROL)
    found = evaluate(store, SCRIPTED, [0, 1], [CONTROL], pool=pool, on_progress=lambda *each: ran.append(each[2].seed))
    assert ran == [1] and str(path) in caplog.text
    assert [lasting(each) for each in found] == [rows[0, CONTROL], rows[1, CONTROL]]


def test_an_error_is_kept_until_it_is_asked_for_again(pool, tmp_path):
    store, ran = EpisodeStore(tmp_path), []
    request = replace(SCRIPTED, policy="misbehaving", policy_spec=MISBEHAVING)
    for retry in (False, False, True):
        found = evaluate(
            store, request, [1], [CONTROL], pool=pool, on_progress=lambda *each: ran.append(each), retry_errors=retry
        )
        assert [episode.outcome for episode in found] == ["error"]
    assert len(ran) == 2


def _episode(seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    states, actions = rng.random((4, 5)), rng.random((3, 7))
    digest = hash_trajectory(states, actions)
    return Episode(
        seed, CONTROL, "failure", "no_lift", 3, 0.1, 0.1, "robosuite", None, None, "", digest, None,
        states=states, actions=actions, milestones=rng.random((4, 3)) > 0.5,
    )  # fmt: skip


def test_no_flipped_bit_and_no_cut_goes_unnoticed(tmp_path):
    store, evaluation, episode = EpisodeStore(tmp_path), Evaluation.of(SCRIPTED), _episode(7)
    path = store.save(evaluation, episode)
    whole = path.read_bytes()
    store.save(evaluation, episode)
    assert path.read_bytes() == whole  # no dates, no names
    damages = [whole[:length] for length in range(0, len(whole), 41)]
    for position in range(0, len(whole), 3):
        damages.append(whole[:position] + bytes([whole[position] ^ 33]) + whole[position + 1 :])
    n_noticed = 0
    for damage in damages:
        path.write_bytes(damage)
        try:
            found = store.load(evaluation, 7, CONTROL)
        except EpisodeDamaged:
            n_noticed += 1
            continue
        assert found.record() == episode.record()  # the bit was one that says nothing, such as a date
        assert np.array_equal(found.states, episode.states) and np.array_equal(found.milestones, episode.milestones)
    assert n_noticed > len(damages) // 2


def test_a_renamed_episode_is_not_taken_for_another(tmp_path):
    store, evaluation = EpisodeStore(tmp_path), Evaluation.of(SCRIPTED)
    store.save(evaluation, _episode(7)).rename(store.path(evaluation, 8, CONTROL))
    with pytest.raises(EpisodeDamaged, match="seed 7"):
        store.load(evaluation, 8, CONTROL)


def test_an_evaluation_is_another_one_when_anything_that_decides_it_changes(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(b"weights")
    requests = [
        SCRIPTED,
        replace(SCRIPTED, policy="random"),
        replace(SCRIPTED, task="open.Stack_D0"),
        replace(SCRIPTED, horizon_steps=50),
        replace(SCRIPTED, checkpoint=checkpoint),
        replace(SCRIPTED, load="rollout_probe_policies:begins_solved"),
        replace(SCRIPTED, policy_spec=replace(find_policy("scripted"), version="other")),
    ]
    ids = [Evaluation.of(request).id for request in requests]
    checkpoint.write_bytes(b"other weights")
    ids.append(Evaluation.of(requests[4]).id)
    assert len(set(ids)) == len(ids)
    assert Evaluation.of(replace(SCRIPTED, engine=None)).id == ids[0]


@pytest.mark.parametrize("arm", [CONTROL, "drop", "shift"])
def test_a_replay_is_equal_to_the_bit_and_finds_a_planted_difference(lift, arm):
    episode = run_episode(lift, make_expert(LIFT), 3, arm=arm)
    lift.reset(8)
    assert replay(lift, episode) is None
    states = episode.states.copy()
    states[20, 10] = np.nextafter(states[20, 10], np.inf)
    assert replay(lift, replace(episode, states=states)) == 20
    if arm == "shift":
        assert replay(lift, replace(episode, arm=CONTROL)) == episode.fired_step


_KILLED = """
import sys
from pathlib import Path
from science.robots.rollouts.pool import RolloutRequest
from science.robots.rollouts.store import EpisodeStore, evaluate
request = RolloutRequest("open.Lift", "scripted", engine="robosuite")
evaluate(EpisodeStore(Path(sys.argv[1])), request, range(300), ["control"], workers=2)
"""


def test_an_evaluation_that_was_killed_leaves_no_worker_and_goes_on_where_it_was(pool, rows, tmp_path):
    store, evaluation = EpisodeStore(tmp_path), Evaluation.of(SCRIPTED)
    killed = subprocess.Popen([sys.executable, "-W", "ignore", "-c", _KILLED, str(tmp_path)])
    deadline_s = time.monotonic() + PATIENCE_S
    while len(store.present(evaluation)) < 2:
        assert time.monotonic() < deadline_s and killed.poll() is None
        time.sleep(0.05)
    workers = workers_of(psutil.Process(killed.pid))
    assert len(workers) == 2
    killed.kill()
    killed.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    present = {seed for seed, _ in store.present(evaluation)}
    wanted, ran = [*sorted(present)[:2], max(present) + 1], []
    found = evaluate(store, SCRIPTED, wanted, [CONTROL], pool=pool, on_progress=lambda *each: ran.append(each[2].seed))
    assert ran == wanted[2:] and [episode.outcome for episode in found] == ["success"] * 3


def test_an_interruption_ends_the_workers_and_the_pool_can_be_used_again(pool, rows):
    def interrupt(episode: Episode) -> None:
        raise KeyboardInterrupt

    before = pool.pids
    with pytest.raises(KeyboardInterrupt):
        pool.run(SCRIPTED, EPISODES, interrupt)
    assert not pool.pids and not any(psutil.pid_exists(pid) for pid in before)
