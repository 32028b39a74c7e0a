"""Draws videos of chosen episodes again from their stored states, and checks that they play."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from io_managers.schemas import table
from resources.artifact_server import artifact_url
from science.robots.rendering import SceneRenderer, choose_gl
from science.robots.rollouts.store import read_episode
from science.robots.tasks.registry import find_task, require_available
from science.robots.video import poster_markdown, record_episode
from workloads.job import Job, open_job

MIN_EPISODES = 20
CONTROL = "control"


def main() -> None:
    """Run the job."""
    with open_job() as job:
        gl = choose_gl(job.params["gl"])
        rates = job.input("success_rate").frame().filter(pl.col("chosen") & (pl.col("arm") == CONTROL))
        waiting = why_waiting(rates, job.params["video_min_rate"])
        episodes = chosen_episodes(job.input("rollouts").frame(), rates, job.params, with_successes=waiting is None)
        task = find_task(job.params["task"])
        require_available(task)
        simulation = task.make("robosuite")
        rows: list[dict[str, Any]] = []
        shown: list[str] = []
        try:
            with SceneRenderer(job.params["size"], job.params["size"], gl) as renderer:
                for index, row in enumerate(episodes):
                    job.progress(index / len(episodes), f"seed {row['seed']} {row['arm']}: {row['outcome']}")
                    rows.append(_video(job, simulation, renderer, row, shown))
        finally:
            simulation.close()
        schema = {column.name: column.dtype for column in table("videos").columns}
        frame = pl.DataFrame(rows, schema=schema)
        job.check("playable", True, {"videos": len(rows), "gl": gl.renderer, "why": gl.why})
        metadata: dict[str, Any] = {
            "successes": waiting or "shown",
            "videos": len(rows),
            "gl_backend": gl.backend,
            "gl_renderer": gl.renderer,
        }
        if shown:
            metadata["posters"] = {"raw_value": "\n\n".join(shown), "type": "md"}
        job.publish(frame, metadata)


def why_waiting(rates: pl.DataFrame, min_rate: float) -> str | None:
    """Why successes are not shown yet, with the number that is missing; None where they are."""
    if rates.is_empty():
        return "WAITING: the chosen checkpoint was not rolled out unperturbed"
    row = rates.row(0, named=True)
    if row["n"] < MIN_EPISODES:
        return f"WAITING: {row['n']} episodes, at least {MIN_EPISODES} are needed"
    if row["rate"] < min_rate:
        return f"WAITING: success rate {row['rate']:.2f} ({row['successes']}/{row['n']}), at least {min_rate} is needed"
    return None


def chosen_episodes(
    rollouts: pl.DataFrame, rates: pl.DataFrame, wanted: Mapping[str, Any], *, with_successes: bool
) -> list[dict[str, Any]]:
    """The lowest seeds of each kind: failures, successes where they are shown, and one fired episode a perturbation."""
    mine = rollouts.filter(
        pl.col("evaluation").is_in(rates["evaluation"].to_list()) & pl.col("episode_artifact").is_not_null()
    ).sort("seed")
    control = mine.filter(pl.col("arm") == CONTROL)
    picked = [control.filter(pl.col("outcome") == "failure").head(wanted["failures"])]
    if with_successes:
        picked.append(control.filter(pl.col("outcome") == "success").head(wanted["successes"]))
    perturbed = mine.filter((pl.col("arm") != CONTROL) & pl.col("fired"))
    if not with_successes:
        perturbed = perturbed.filter(pl.col("outcome") == "failure")
    picked += [each.head(1) for _, each in perturbed.group_by("arm", maintain_order=True)]
    return [row for frame in picked for row in frame.iter_rows(named=True)]


def _video(job: Job, simulation: Any, renderer: SceneRenderer, row: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    episode = read_episode(job.artifact(row["episode_artifact"]))
    path = job.directory / f"{row['arm']}-{row['seed']}.mp4"
    video = record_episode(
        path,
        simulation,
        renderer,
        seed=row["seed"],
        arm=row["arm"],
        states=episode.states,
        milestones=episode.milestones,
        fired_step=row["fired_step"],
        outcome=row["outcome"],
        stage=row["stage"],
        policy=row["policy"],
        camera=job.params["camera"],
    )
    poster = job.directory / f"{row['arm']}-{row['seed']}.png"
    poster.write_bytes(video.poster)
    name = job.keep(path)
    caption = f"{row['policy']} {row['arm']} seed {row['seed']}: {row['outcome']}"
    shown.append(poster_markdown(video.poster, artifact_url(name), caption))
    columns = (
        *("suite", "task", "policy", "checkpoint_hash", "step", "evaluation", "environment_hash"),
        *("seed", "arm", "outcome", "stage"),
    )
    return {column: row[column] for column in columns} | {
        "video_artifact": name,
        "poster_artifact": job.keep(poster),
        "frames": video.info.frames,
        "fps": video.info.fps,
        "gl_backend": video.gl.backend,
        "gl_renderer": video.gl.renderer,
    }


if __name__ == "__main__":
    main()
