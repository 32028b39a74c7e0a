"""The backend of hosts without a scheduler: a job is a detached process, here or on a node reached through SSH.

`supervisor.sh` does on either host what must be done there: it starts a job once, says whether its process lives, and
ends it with all that descends from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resources.compute.endings import Seen
from resources.compute.interface import Handle, JobSpec, SiteUnavailable, State, Status, SubmissionRefused
from resources.compute.job_directory import SubmissionDirectory
from resources.compute.patience import Patience
from resources.compute.polling import poll
from resources.compute.reach import Done, Here, Reach, Ssh
from resources.compute.sites import Site
from resources.compute.snapshot import Snapshot
from resources.compute.submitting import submit_once

SUPERVISOR = Path(__file__).with_name("supervisor.sh")
_GRACE_HERE_S = 2.0
_CANCEL_S = 60.0
_STATES = {"alive": State.RUNNING, "gone": State.ENDED, "rebooted": State.ENDED}


class ProcessBackend:
    """Runs jobs as processes of a host; ``state`` is a folder for what the processes of this host share about it."""

    def __init__(self, site: Site, state: Path):
        self.site, self._state = site, state
        self._snapshot = Snapshot(state, site.poll_s, self._seen)
        self._patience = Patience(_GRACE_HERE_S) if site.ssh is None else Patience()

    def submit(self, spec: JobSpec) -> Handle:
        """Start the job unless it was started before; see `Backend.submit`."""
        require_one_line(spec)

        def ask(files: SubmissionDirectory, lock: int) -> Mapping[str, Any]:
            intent = files.read_intent()
            node = intent["node"] if intent else self._prepare(files, spec)
            return {"reference": f"{node}:{spec.directory}", "process": self._start(node, spec.directory, lock)}

        return submit_once(spec, ask)

    def _prepare(self, files: SubmissionDirectory, spec: JobSpec) -> str:
        """Write down all that the job needs, and on which node it is to run."""
        node = self._choose_node(spec)
        limit_s = spec.needs.time_limit_s or self.site.time_limit_s
        command = [*self.site.command(spec.needs.environment), "-m", "workloads.on_node", spec.module]
        there = {"TRACEBED_GPU_SLOTS": "1", **({"TRACEBED_NODE": node} if node else {})}
        prepared = replace(spec, environment={**spec.environment, **there})
        files.prepare(prepared, command, self.site.root, limit_s, self.site.warn_before(limit_s))
        files.write_intent({"node": node})
        return node

    def _start(self, node: str, directory: Path, lock: int) -> str:
        done = supervisor(self.site, node, self._state).run(["start", str(directory)], hold=[lock])
        if done.code == 0 and not done.out.strip():  # as when the connection breaks: it may have started
            raise SiteUnavailable(f"{node or 'this host'} did not say whether the job started; asking again is safe")
        if done.code:
            raise SubmissionRefused(
                f"the job could not be started on {node or 'this host'} in {directory}: {done.said()}. The home "
                "must lie on a file system that the node has at the same path; "
                f"`tracebed site check {self.site.name}` tries it"
            )
        return done.out.strip()

    def _choose_node(self, spec: JobSpec) -> str:
        """A node that is not excluded, by the job's key; '' for this host."""
        if self.site.ssh is None:
            return ""
        every = [self.site.ssh.host, *self.site.nodes]
        usable = [node for node in every if node not in spec.exclude_nodes] or every
        return usable[int(hashlib.sha256(spec.key.encode()).hexdigest(), 16) % len(usable)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[str, Status]:
        """The state of every job: exit files first, then one question to each node for the others."""
        return poll(handles, self._snapshot, self._patience)

    def _seen(self, references: Sequence[str]) -> dict[str, Seen]:
        return ask_supervisors(self.site, self._state, {each: each for each in references})

    def cancel(self, handle: Handle) -> None:
        """Ask the job to end, and end it and everything that descends from it after some seconds."""
        SubmissionDirectory(handle.directory).mark_cancelled()
        argv = ["cancel", str(handle.directory), handle.key]
        intent = SubmissionDirectory(handle.directory).read_intent() or {}
        node = _node(handle.reference) or intent.get("node", "")
        done = supervisor(self.site, node, self._state).run(argv, timeout_s=_CANCEL_S)
        if done.code:
            raise SiteUnavailable(f"{handle.key} could not be ended: {done.said()}")

    def logs(self, handle: Handle, offset: int) -> bytes:
        """What the job printed from byte ``offset`` on."""
        return SubmissionDirectory(handle.directory).read_log(offset)

    def usage(self, handles: Sequence[Handle]) -> Mapping[str, Mapping[str, Any]]:
        """Nothing: nobody keeps account of processes."""
        return {}


def require_one_line(spec: JobSpec) -> None:
    """Refuse what the supervisor could not read: it is told one directory a line, and finds processes by key."""
    for what, found in (("key", spec.key), ("directory", str(spec.directory))):
        if "\n" in found:
            raise SubmissionRefused(
                f"the job's {what} is {found!r}; expected no newline in it: move the home elsewhere"
            )


def ask_supervisors(site: Site, state: Path, places: Mapping[str, str]) -> dict[str, Seen]:
    """What each node says of the processes there, with one call a node; ``places`` maps a name to `node:directory`."""
    found: dict[str, Seen] = {}
    for node in sorted({_node(place) for place in places.values()}):
        mine = {name: str(_directory(place)) for name, place in places.items() if _node(place) == node}
        try:
            done = supervisor(site, node, state).run(["status"], send="".join(f"{each}\n" for each in mine.values()))
            if done.code:
                raise SiteUnavailable(f"{node or 'this host'}: {done.said()}")
        except SiteUnavailable as unavailable:
            found |= {name: Seen(State.UNKNOWN, detail=str(unavailable)) for name in mine}
            continue
        said = {directory: word for word, _, directory in (line.partition("\t") for line in done.out.split("\n"))}
        for name, directory in mine.items():
            word = said.get(directory, "absent")
            found[name] = Seen(_STATES.get(word, State.UNKNOWN), word, _WORDS.get(word, ""), node or None)
    return found


_WORDS = {
    "gone": "its process is gone",
    "rebooted": "the node was started anew since",
    "elsewhere": "another host answers under the node's name than the one where it was started",
    "absent": "the node has no record of its process yet",
}


class Supervisor:
    """`supervisor.sh` on one host, called by absolute path."""

    def __init__(self, reach: Reach, script: str):
        self._reach, self._script = reach, script

    def run(self, argv: Sequence[str], *, send: str = "", timeout_s: float = 30.0, hold: Sequence[int] = ()) -> Done:
        """Call it; see `Reach.run`. A copy that was deleted since (an emptied /tmp, say) is uploaded again."""
        command = ["/bin/sh", self._script, *argv]
        done = self._reach.run(command, send=send, timeout_s=timeout_s, hold=hold)
        if done.code and f"{self._script}: No such file" in done.err and isinstance(self._reach, Ssh):
            _uploaded.discard((self._reach.where, self._script))
            _upload(self._reach, str(Path(self._script).parent))
            done = self._reach.run(command, send=send, timeout_s=timeout_s, hold=hold)
        return done


_uploaded: set[tuple[str, str]] = set()


def supervisor(site: Site, node: str, state: Path, *, alone: bool = False) -> Supervisor:
    """The supervisor of a host: the file beside this one, or a copy of it on the node, named by its content.

    ``alone`` ones are called through a connection of their own each time.
    """
    if site.ssh is None:
        return Supervisor(Here(), str(SUPERVISOR))
    reach = site.ssh.reach(node)
    script = _upload(reach, site.work or str(state))
    return Supervisor(replace(reach, shared=not alone), script)


def _upload(reach: Ssh, folder: str) -> str:
    content = SUPERVISOR.read_bytes()
    remote = f"{folder}/supervisor-{hashlib.sha256(content).hexdigest()[:12]}.sh"
    if (reach.where, remote) not in _uploaded:
        if reach.run(["test", "-s", remote]).code:
            reach.upload(content, remote)
        _uploaded.add((reach.where, remote))
    return remote


def _node(reference: str) -> str:
    return reference.partition(":")[0]


def _directory(reference: str) -> Path:
    return Path(reference.partition(":")[2])
