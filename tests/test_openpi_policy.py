"""openpi's own server as a policy: what it is shown, who it must be, and episodes that are run with it."""

import asyncio
import threading

import numpy as np
import pytest
from openpi.serving.websocket_policy_server import WebsocketPolicyServer
from robosuite.utils.transform_utils import quat2axisangle
from serving_policies import IDENTITY, Small, serve_here

from science.robots.openpi.descriptor import read_descriptor
from science.robots.openpi.policy import inspect
from science.robots.policies.base import PolicyError
from science.robots.policies.batched import BatchedPolicy
from science.robots.policies.conformance import problems
from science.robots.policies.openpi import SPEC
from science.robots.rollouts.pool import RolloutPool, RolloutRequest
from science.robots.rollouts.store import Evaluation
from science.robots.serving.client import PolicyClient
from science.robots.tasks.registry import find_task

LIFT = find_task("open.Lift")
LIBERO = """
address = "{address}"
replan_steps = 5
{identity}
[state]
"observation/state" = ["robot0_eef_pos", "robot0_eef_quat as axis_angle", "robot0_gripper_qpos"]

[pictures."observation/image"]
camera = "agentview"
render_px = 32
size_px = 16
flip = ["horizontal"]

[pictures."observation/wrist_image"]
camera = "robot0_eye_in_hand"
render_px = 32
size_px = 32
"""
NAMED = '[identity]\nconfig = "pi05_libero"\nstep = 29999\n'
METADATA = {"config": "pi05_libero", "step": 29999, "action_horizon": 10, "action_dim": 7}


class Recording:
    """A policy as openpi's server takes one: it keeps what it was shown and answers with small actions."""

    def __init__(self, shape=(10, 7), size=0.1):
        self.seen, self.shape, self.size = [], shape, size

    def infer(self, observation):
        self.seen.append(observation)
        if observation["prompt"] == "fail":
            raise ArithmeticError("no such thing")
        return {"actions": np.full(self.shape, self.size, np.float32)}


@pytest.fixture
def served():
    """Serve a policy with openpi's own server: ``served(policy, metadata)`` gives the address."""
    ends = []

    def serve(policy, metadata=METADATA):
        loop, ready = asyncio.new_event_loop(), threading.Event()
        port = free_port()
        server = WebsocketPolicyServer(policy, "127.0.0.1", port, metadata)

        def run():
            asyncio.set_event_loop(loop)
            task = loop.create_task(server.run())
            ends.append((loop, task, thread))
            loop.call_soon(ready.set)
            with pytest.raises(asyncio.CancelledError):
                loop.run_until_complete(task)

        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(30)
        return f"ws://127.0.0.1:{port}"

    yield serve
    for loop, task, thread in ends:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def described(tmp_path, address, identity=NAMED, **changes):
    path = tmp_path / "server.toml"
    text = LIBERO.format(address=address, identity=identity)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def observation(seed=0):
    generator = np.random.default_rng(seed)
    quat = generator.standard_normal(4)
    return {
        "robot0_eef_pos": generator.random(3),
        "robot0_eef_quat": quat / np.linalg.norm(quat),
        "robot0_gripper_qpos": generator.random(2),
        "agentview_image": generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "robot0_eye_in_hand_image": generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),
        "unread": np.zeros(3),
    }


def test_our_client_is_served_by_openpis_own_server(served):
    policy = Recording()
    client = PolicyClient(served(policy))
    assert client.metadata == METADATA
    shown = {"observation/state": np.arange(8.0), "prompt": "lift"}
    answer = client.infer(shown, session="s", seed=3, step=5)
    assert np.array_equal(answer["actions"], np.full((10, 7), 0.1, np.float32)) and client.server_s > 0
    assert set(policy.seen[0]) == set(shown)  # nothing that it does not know
    with pytest.raises(PolicyError, match="ArithmeticError: no such thing"):
        client.infer({"prompt": "fail"})
    assert client.infer(shown)["actions"].shape == (10, 7)  # on a new connection


def test_it_is_shown_what_it_was_trained_on(served, tmp_path):
    policy = Recording()
    acting = SPEC.make(LIFT, described(tmp_path, served(policy)))
    assert dict(acting.cameras) == {"agentview": (32, 32), "robot0_eye_in_hand": (32, 32)}
    acting.start(0)
    for step in range(6):
        assert np.allclose(acting.act(observation(step)), 0.1)
    first, second = policy.seen  # asked at steps 0 and 5
    seen = observation(0)
    turned = quat2axisangle(seen["robot0_eef_quat"].copy())
    expected = np.concatenate([seen["robot0_eef_pos"], turned, seen["robot0_gripper_qpos"]])
    assert first["observation/state"].dtype == np.float32
    assert np.allclose(first["observation/state"], expected, atol=1e-6)
    assert first["prompt"] == LIFT.instruction
    assert np.array_equal(first["observation/wrist_image"], seen["robot0_eye_in_hand_image"])
    assert first["observation/image"].shape == (16, 16, 3)
    left, right = seen["agentview_image"][:, :16].mean(), seen["agentview_image"][:, 16:].mean()
    assert abs(first["observation/image"][:, 8:].mean() - left) < abs(first["observation/image"][:, 8:].mean() - right)
    assert not np.array_equal(second["observation/state"], first["observation/state"])


def test_episodes_run_with_it_in_workers_that_draw_what_it_sees(served, tmp_path):
    policy, found = Recording(), []
    path = described(tmp_path, served(policy))
    request = RolloutRequest("open.Lift", "openpi", checkpoint=path, horizon_steps=12)
    with RolloutPool(2) as pool:
        pool.run(request, [(seed, "control") for seed in range(3)], found.append)
    assert [each.outcome for each in found] == ["failure"] * 3, [each.error for each in found]
    assert len(policy.seen) == 9 and all(each.server_s > 0 for each in found)
    pictures = [each["observation/image"] for each in policy.seen]
    assert all(each.std() > 5 for each in pictures)
    assert Evaluation.of(request).checkpoint_hash is not None


def test_actions_beyond_the_limits_are_clipped_and_of_another_shape_refused(served, tmp_path):
    acting = SPEC.make(LIFT, described(tmp_path, served(Recording(size=1.7))))
    acting.start(0)
    assert np.array_equal(acting.act(observation()), np.ones(7))
    acting = SPEC.make(LIFT, described(tmp_path, served(Recording(shape=(10, 32)))))
    acting.start(0)
    with pytest.raises(PolicyError, match=r"actions of shape \(10, 32\), expected \(10, 7\)"):
        acting.act(observation())


def test_another_server_than_the_one_described_is_refused(served, tmp_path):
    address = served(Recording(), METADATA | {"step": 10000})
    with pytest.raises(PolicyError, match=r"not the one described: found step 10000 \(expected 29999\)"):
        SPEC.make(LIFT, described(tmp_path, address))
    silent = served(Recording(), {})
    with pytest.raises(PolicyError, match=r"found config None .*unidentified = true"):
        SPEC.make(LIFT, described(tmp_path, silent))
    with pytest.raises(PolicyError, match="found no action_dim in the server's metadata"):
        SPEC.make(LIFT, described(tmp_path, silent, "unidentified = true\n"))
    declared = "unidentified = true\naction_dim = 7\naction_horizon = 10\n"
    assert SPEC.make(LIFT, described(tmp_path, silent, declared)).action_dim == 7
    with pytest.raises(PolicyError, match="found action_dim = 6 in the description and 7"):
        SPEC.make(LIFT, described(tmp_path, served(Recording()), "action_dim = 6\n" + NAMED))


def test_our_own_server_may_be_described_too(tmp_path):
    with serve_here(Small()) as (address, _):
        path = tmp_path / "own.toml"
        identity = f'[identity]\ncheckpoint_hash = "{IDENTITY["checkpoint_hash"]}"'
        path.write_text(f'address = "{address}"\nreplan_steps = 2\n{identity}\n[state]\nx = ["robot0_eef_pos"]')
        with pytest.raises(PolicyError, match=r"gives 2 actions; .* takes 7"):
            SPEC.make(LIFT, path)


class Seven(BatchedPolicy):
    """Chunks of seven-dimensional actions that depend on the state and the noise."""

    observation = {"observation/state": 8}
    action_dim, horizon_steps, noise_shape = 7, 10, (10, 7)

    def infer(self, rows):
        return np.stack([np.tanh(0.1 * row.noise + row.observation["observation/state"].sum()) for row in rows])


def test_over_a_server_that_takes_seeds_and_steps_it_conforms(tmp_path):
    with serve_here(Seven()) as (address, _):
        path = tmp_path / "own.toml"
        keys = '["robot0_eef_pos", "robot0_eef_quat as axis_angle", "robot0_gripper_qpos"]'
        identity = f'[identity]\ncheckpoint_hash = "{IDENTITY["checkpoint_hash"]}"'
        path.write_text(f'address = "{address}"\nreplan_steps = 5\n{identity}\n[state]\n"observation/state" = {keys}')
        assert problems(SPEC.make_batched(LIFT, path)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({'address = "ws': 'address = "http'}, "expected ws://host:port"),
        ({"replan_steps = 5": "replan_steps = 0"}, "at least 1"),
        ({"replan_steps = 5": ""}, "no replan_steps"),
        ({"replan_steps = 5": "replan_steps = true"}, "of type int"),
        ({"replan_steps = 5": "replan_steps = 5\nwarp = 1"}, r"found \['warp'\]"),
        ({"[identity]": "unidentified = true\n[identity]"}, "both unidentified = true and"),
        ({'flip = ["horizontal"]': 'flip = ["diagonal"]'}, "some of"),
        ({'camera = "agentview"': 'view = "agentview"'}, "a table with a camera"),
        ({"size_px = 16": "size_px = 0"}, "at least one pixel"),
        ({'["robot0_eef_pos",': '["robot0_eef_pos", 3,'}, "a list of observation keys"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_by_what_was_found(tmp_path, changes, said):
    with pytest.raises(PolicyError, match=said):
        read_descriptor(described(tmp_path, "ws://127.0.0.1:9", **changes))


def test_a_description_that_does_not_fit_the_task_is_refused_before_the_server_is_asked(tmp_path):
    path = described(tmp_path, "ws://127.0.0.1:9", **{"robot0_eef_pos": "robot9_eef_pos"})
    with pytest.raises(PolicyError, match=r"found state \['robot9_eef_pos'\]"):
        SPEC.make(LIFT, path)
    twice = described(
        tmp_path, "ws://127.0.0.1:9", **{'"robot0_eye_in_hand"\nrender_px = 32': '"agentview"\nrender_px = 64'}
    )
    with pytest.raises(PolicyError, match="two sizes of camera"):
        SPEC.make(LIFT, twice)
    keyed = described(
        tmp_path, "ws://127.0.0.1:9", **{"replan_steps = 5": 'replan_steps = 5\napi_key_variable = "NO_KEY"'}
    )
    with pytest.raises(PolicyError, match=r"found no \$NO_KEY"):
        SPEC.make(LIFT, keyed)
    (tmp_path / "no.toml").write_text("no toml")
    with pytest.raises(PolicyError, match="cannot be read as TOML"):
        read_descriptor(tmp_path / "no.toml")


def test_an_import_is_told_what_the_description_says(tmp_path):
    told = inspect(described(tmp_path, "ws://127.0.0.1:9"))
    assert told.step == 29999 and told.settings["identity"]["config"] == "pi05_libero" and told.seed is None
