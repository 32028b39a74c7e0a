"""Videos of successes, failures and perturbations, drawn again from stored states."""

import dagster as dg
from pydantic import Field

from assets.policy.keys import policy_key
from assets.policy.tasks import task_needs, task_of
from io_managers.table_io_manager import materialised
from io_managers.tables import TablePartition
from partitions import TASKS
from resources.compute.compute import Compute
from science.robots.policies.base import PolicySpec


class VideoConfig(dg.Config):
    """Which episodes are shown, and how."""

    video_min_rate: float = Field(0.5, ge=0, le=1, description="successes are shown from this rate on, with n >= 20")
    failures: int = Field(2, ge=0, description="failed episodes")
    successes: int = Field(1, ge=0, description="successful episodes")
    size: int = Field(384, ge=64, le=1024, multiple_of=16, description="width and height of the picture, pixels")
    camera: str | None = Field(None, description="camera of the model; default: agentview, or frontview")
    gl: str | None = Field(None, description="egl or osmesa; default: egl, and an error where there is none")


def build_videos(policy: PolicySpec) -> dg.AssetsDefinition:
    """The asset `policy/videos/<policy>`."""
    key = policy_key("videos", policy.name)

    @dg.asset(
        key=key,
        partitions_def=TASKS,
        ins={
            "rollouts": dg.AssetIn(policy_key("rollouts", policy.name)),
            "success_rate": dg.AssetIn(policy_key("success_rate", policy.name)),
        },
        io_manager_key="tables",
        group_name="policy",
        kinds={"mujoco", "ffmpeg"},
        code_version="1",
        description=(
            f"H.264 videos of `{policy.name}` on one task: failures always, one of each perturbation, successes only "
            "where n >= 20 and the rate reaches `video_min_rate` (else WAITING). Posters link to the mp4."
        ),
        check_specs=[
            dg.AssetCheckSpec("playable", asset=key, description="every video is H.264, whole and not blank"),
        ],
    )
    def videos(
        context: dg.AssetExecutionContext,
        config: VideoConfig,
        compute: Compute,
        rollouts: TablePartition,
        success_rate: TablePartition,
    ):
        task = task_of(context)
        result = yield from compute.run(
            context,
            "workloads.videos",
            inputs={"rollouts": rollouts, "success_rate": success_rate},
            params={"task": task.key, "policy": policy.name, **config.model_dump()},
            needs=task_needs(task, draws=True),
        )
        yield materialised(result.rows, result.metadata, result.checks)

    return videos
