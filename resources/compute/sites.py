"""The lab's sites: `sites.toml` says what they are, how they are reached, and which assets run where.

`[runs_on]` maps a group of assets (or `default`) to a site; `[sites.NAME]` describes one. What is misspelt, missing or
impossible is refused by name when the file is read.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from home import ROOT
from resources.compute.reach import Here, Reach, Ssh

LOCAL = "local"
_SITES_VARIABLE = "TRACEBED_SITES"
_PYTHON_VARIABLE = "TRACEBED_PYTHON_"


class SiteError(ValueError):
    """A `sites.toml` that cannot be used, or a site that does not exist."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SshHost(_Strict):
    """A host reached through the system's `ssh`. The user name is explicit: it differs between clusters."""

    host: str
    user: str
    port: int | None = None
    config: Path | None = Field(None, description="a file for `ssh -F`; default: the user's own")

    @field_validator("host", "user")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not value or value.startswith("-"):
            raise ValueError(f"found {value!r}; expected a name that does not begin with a dash: ssh reads an option")
        return value

    def reach(self, host: str | None = None) -> Ssh:
        """The way to this host, or to another one in the same manner."""
        config = self.config.expanduser() if self.config else None
        return Ssh(host or self.host, self.user, self.port, config)


class SlurmNames(_Strict):
    """How the scheduler's commands are called."""

    sbatch: str = "sbatch"
    squeue: str = "squeue"
    sacct: str = "sacct"
    scancel: str = "scancel"
    scontrol: str = "scontrol"
    sacctmgr: str = "sacctmgr"


YH = SlurmNames(
    sbatch="yhbatch",
    squeue="yhqueue",
    sacct="yhacct",
    scancel="yhcancel",
    scontrol="yhcontrol",
    sacctmgr="yhacctmgr",
)


class Site(_Strict):
    """One site.

    Attributes
    ----------
    scheduler : `none` (processes on a host or node) or `slurm`.
    ssh : the login node of a scheduler, or the node itself; None: this host.
    nodes : further nodes of a site without a scheduler, reached as `ssh` says; a job goes to one of them.
    inside_allocation : ask the scheduler for an allocation, and start the job on its node through SSH.
    commands : names of the scheduler's commands, or `yh` for those that begin so.
    gpu_request : how GPUs are asked for; `{gpus}` is their number.
    options : further options of sbatch.
    time_limit_s : for jobs that name none; None: the partition's own.
    warn_s : how long before a time limit the workload is told to save.
    environments : name -> interpreter, or command prefix that ends in one.
    root : the platform's code there; default: the same path as here.
    work : absolute folder on nodes reached through SSH, for the supervisor; default: in the shared home.
    max_jobs : jobs of this platform at once; None: any number.
    poll_s : the site is asked at most once in this time, whatever the number of jobs.
    accounting : whether the scheduler keeps account of jobs (sacct).
    exclude_h : how long a node is left out after it failed, hours.
    variables : environment variables of its jobs.
    max_memory_gb : a job that ran out of memory is tried again with twice as much, up to this; None: never.
    """

    name: str
    scheduler: Literal["none", "slurm"] = "none"
    ssh: SshHost | None = None
    nodes: tuple[str, ...] = ()
    inside_allocation: bool = False
    commands: SlurmNames = SlurmNames()
    partition: str | None = None
    account: str | None = None
    gpu_request: str = "--gres=gpu:{gpus}"
    options: tuple[str, ...] = ()
    time_limit_s: int | None = Field(None, gt=0)
    warn_s: int = Field(120, gt=0, lt=65536)
    environments: dict[str, tuple[str, ...]] = {}
    root: Path = ROOT
    work: str | None = None
    max_jobs: int | None = Field(None, gt=0)
    poll_s: float = Field(5.0, gt=0)
    accounting: bool = True
    exclude_h: float = Field(6.0, ge=0)
    max_memory_gb: float | None = None
    variables: dict[str, str] = {}

    @field_validator("commands", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return YH if value == "yh" else value

    @field_validator("environments", mode="before")
    @classmethod
    def _prefixes(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value  # refused as what it is
        return {name: (each,) if isinstance(each, str) else each for name, each in value.items()}

    @field_validator("environments")
    @classmethod
    def _can_be_run(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, command in value.items():
            if not all(command) or not command:
                raise ValueError(f"{name} is {list(command)}; expected an interpreter, or a command that ends in one")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Site:
        if self.inside_allocation and (self.scheduler != "slurm" or self.ssh is None):
            raise ValueError("inside_allocation needs scheduler = 'slurm' and ssh: nodes are reached as it says")
        if self.nodes and self.ssh is None:
            raise ValueError("nodes are reached through ssh: say host and user there")
        if self.work is not None and not self.work.startswith("/"):
            raise ValueError(f"work is {self.work!r}; expected an absolute path")
        if not self.root.is_absolute():
            raise ValueError(f"root is {str(self.root)!r}; expected an absolute path")
        if "/" in self.name or self.name.startswith(".") or not self.name:
            raise ValueError(f"its name is {self.name!r}; expected one that can name a folder")
        if "{gpus}" not in self.gpu_request:
            raise ValueError(f"gpu_request is {self.gpu_request!r}; expected {{gpus}} in it")
        return self

    def warn_before(self, limit_s: int | None) -> int:
        """How long before a time limit the workload is warned: never before two thirds of it are over."""
        return self.warn_s if limit_s is None else max(1, min(self.warn_s, limit_s // 3))

    def reach(self) -> Reach:
        """The way to the scheduler, or to the only node."""
        return self.ssh.reach() if self.ssh else Here()

    def command(self, environment: str) -> list[str]:
        """The command that runs Python in an environment.

        Raises
        ------
        SiteError
            When the site has no such environment.
        """
        if environment in self.environments:
            return list(self.environments[environment])
        here = self.scheduler == "none" and self.ssh is None
        if here and (path := os.environ.get(_PYTHON_VARIABLE + environment.upper())):
            if not os.access(path, os.X_OK):
                raise SiteError(
                    f"{_PYTHON_VARIABLE}{environment.upper()} is {path!r}, which cannot be run; set it to the Python "
                    f"of environment {environment}"
                )
            return [path]
        if here or environment == "default":
            return [sys.executable]
        raise SiteError(
            f"site {self.name!r} has no environment {environment!r}; add it to [sites.{self.name}.environments] in "
            f'{sites_file()}: {environment} = "/path/to/python" (a Python that also has tracebed)'
        )


class Sites(_Strict):
    """All sites, and which assets run where."""

    runs_on: dict[str, str] = {}
    sites: dict[str, Site] = {}

    @model_validator(mode="after")
    def _known(self) -> Sites:
        for group, name in self.runs_on.items():
            if name not in self.sites:
                raise ValueError(f"runs_on.{group} is {name!r}; the sites are {', '.join(self.sites)}")
        return self

    def site(self, name: str) -> Site:
        """The site of a name.

        Raises
        ------
        SiteError
            Naming the sites that there are.
        """
        if name not in self.sites:
            raise SiteError(f"there is no site {name!r}; the sites of {sites_file()} are: {', '.join(self.sites)}")
        return self.sites[name]

    def for_group(self, group: str) -> Site:
        """Where assets of a group run: as `runs_on` says for it, else for `default`, else here."""
        return self.sites[self.runs_on.get(group, self.runs_on.get("default", LOCAL))]


def sites_file() -> Path:
    """`$TRACEBED_SITES`, or `sites.toml` beside the code."""
    return Path(os.environ.get(_SITES_VARIABLE) or ROOT / "sites.toml")


def load_sites(path: Path | None = None) -> Sites:
    """Read `sites.toml`; the site `local` is always there.

    Raises
    ------
    SiteError
        Naming every entry that cannot be used.
    """
    path = path or sites_file()
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError as missing:
        raise SiteError(f"there is no {path}; `{_SITES_VARIABLE}` names another file") from missing
    except tomllib.TOMLDecodeError as error:
        raise SiteError(f"{path} is not TOML: {error}") from error
    described = content.pop("sites", {})
    told: list[str] = []
    sites: dict[str, Site] = {}
    for name, entries in {LOCAL: {}, **(described if isinstance(described, dict) else {"": described})}.items():
        try:
            sites[name] = Site.model_validate(_named(name, entries))
        except ValidationError as error:
            told += _told(error, f"sites.{name}", Site)
        except SiteError as error:
            told.append(str(error))
    try:
        found = Sites(sites=sites, **content)
    except ValidationError as error:
        told += _told(error, "", Sites) if not told else []  # a site that was refused is no unknown one
    if told:
        raise SiteError(f"{path} cannot be used:\n" + "\n".join(f"  - {each}" for each in told))
    return found


def _named(name: str, entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict) or "name" in entries:
        found = f"found {entries!r}" if not isinstance(entries, dict) else f"found name = {entries['name']!r} in it"
        raise SiteError(f"sites.{name}: {found}; expected a table [sites.NAME] of entries without `name`")
    return {**entries, "name": name}


def _told(error: ValidationError, where: str, model: type[BaseModel]) -> list[str]:
    """Each problem: which entry, what was found, what was expected."""
    told = []
    for each in error.errors(include_url=False):
        entry = ".".join(filter(None, (where, *map(str, each["loc"]))))
        if each["type"] == "extra_forbidden":
            fields = SshHost if "ssh" in each["loc"] else SlurmNames if "commands" in each["loc"] else model
            expected = ", ".join(name for name in fields.model_fields if name != "name")
            told.append(f"{entry}: found {each['input']!r}, but there is no such entry; expected one of {expected}")
        elif each["type"] == "value_error":
            told.append(f"{entry}: ".removeprefix(": ") + each["msg"].removeprefix("Value error, "))
        else:
            told.append(f"{entry}: found {each['input']!r}; expected: {each['msg']}")
    return told
