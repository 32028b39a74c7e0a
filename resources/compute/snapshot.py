"""What a site last said of all its jobs, shared by every process of this host.

Each Dagster run is a process of its own and follows one job. They leave what they follow in a folder, and whichever
process finds the answer too old asks the site once for all of them; so a site is asked once a cycle, not once a job.
A site that cannot be asked is asked once a cycle too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resources.compute.endings import Seen
from resources.compute.interface import SiteUnavailable, State
from resources.compute.job_directory import write_text

_FORGOTTEN_AFTER_S = 60.0

Ask = Callable[[Sequence[str]], Mapping[str, Seen]]


class Snapshot:
    """The shared answer of one site, in ``folder``, asked for at most every ``interval_s`` seconds."""

    def __init__(self, folder: Path, interval_s: float, ask: Ask):
        self._folder, self._interval_s, self._ask = folder, interval_s, ask

    def seen(self, references: Sequence[str]) -> dict[str, Seen]:
        """What the site said of these jobs; a job that nobody has asked about yet is UNKNOWN."""
        if not references:
            return {}
        self._watch(references)
        answer = self._answer()
        if self._too_old(answer):
            with (self._folder / "lock").open("w") as lock:
                if self._try_lock(lock):
                    answer = self._answer()
                    if self._too_old(answer):
                        answer = self._fresh()
        nothing = asdict(Seen(State.UNKNOWN, detail=answer.get("error") or "not asked yet"))
        return {each: _seen(answer.get("jobs", {}).get(each, nothing)) for each in references}

    def forget(self, reference: str) -> None:
        """Ask no more about a job: it has ended."""
        self._path_of(reference).unlink(missing_ok=True)

    def _path_of(self, reference: str) -> Path:
        return self._folder / "watched" / hashlib.sha256(reference.encode()).hexdigest()[:24]

    def _fresh(self) -> dict[str, Any]:
        answer: dict[str, Any] = {"error": None, "jobs": {}}
        try:
            answer["jobs"] = {name: asdict(seen) for name, seen in self._ask(self._watched()).items()}
        except SiteUnavailable as unavailable:
            answer["error"] = str(unavailable)
        answer["asked_at"] = time.time()
        write_text(self._folder / "answer.json", json.dumps(answer))
        return answer

    def _answer(self) -> dict[str, Any]:
        path = self._folder / "answer.json"
        return json.loads(path.read_text()) if path.exists() else {"asked_at": 0.0}

    def _too_old(self, answer: Mapping[str, Any]) -> bool:
        return not 0 <= time.time() - answer["asked_at"] < self._interval_s  # a clock may be set back

    def _watch(self, references: Sequence[str]) -> None:
        watched = self._folder / "watched"
        watched.mkdir(parents=True, exist_ok=True)
        for reference in references:
            path = self._path_of(reference)
            if path.exists():
                path.touch()
            else:
                write_text(path, reference)

    def _watched(self) -> list[str]:
        clock = self._folder / "lock"
        clock.touch()
        now, found = clock.stat().st_mtime, []  # by the file server's clock: this host's may differ by minutes
        for path in sorted((self._folder / "watched").glob("[!.]*")):
            with suppress(FileNotFoundError):  # its job has ended meanwhile
                if now - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
                    path.unlink()
                else:
                    found.append(path.read_text())
        return found

    @staticmethod
    def _try_lock(lock: Any) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is asking; what is there will do
            return False
        return True


def _seen(described: Mapping[str, Any]) -> Seen:
    return Seen(**{**described, "state": State(described["state"])})
