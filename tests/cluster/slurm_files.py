"""The files of a test cluster's configuration: slurm.conf, gres.conf, slurmdbd.conf. Texts only, nothing is started."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GPUS = 8
CPUS = 8
MEMORY_MB = 16000


@dataclass(frozen=True)
class Layout:
    """Where a cluster's parts lie and listen; everything is under `root`."""

    root: Path
    hostname: str
    controller_port: int
    slurmdbd_port: int
    node_ports: dict[str, int]
    slurmd_timeout_s: int
    message_timeout_s: int
    accounting: bool
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def conf(self) -> Path:
        return self.root / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        return self.root / "munge" / "socket"

    @property
    def munge_key(self) -> Path:
        return self.root / "munge" / "key"

    @property
    def database(self) -> Path:
        return self.root / "database"

    @property
    def database_socket(self) -> Path:
        return self.root / "database.socket"

    @property
    def devices(self) -> Path:
        return self.root / "dev"

    def spool(self, node: str) -> Path:
        return self.root / "spool" / node


def slurm_conf(at: Layout) -> str:
    """slurm.conf: fake GPUs, immediate scheduling, a preempting partition, quick node failures."""
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={at.hostname} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
        f"RealMemory={MEMORY_MB} Gres=gpu:v100:{GPUS} State=UNKNOWN"
        for name, port in at.node_ports.items()
    )
    return f"""\
ClusterName=testbed
SlurmctldHost={at.hostname}(127.0.0.1)
SlurmctldPort={at.controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (default 120 s).
AuthInfo=socket={at.munge_socket},cred_expire=10
StateSaveLocation={at.root}/state
SlurmctldPidFile={at.root}/slurmctld.pid
SlurmdSpoolDir={at.root}/spool/%n
SlurmdPidFile={at.root}/slurmd.%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
PropagateResourceLimits=NONE
ReturnToService=2
SlurmdTimeout={at.slurmd_timeout_s}
MessageTimeout={at.message_timeout_s}
KillWait=5
MinJobAge=300
OverTimeLimit=0
InactiveLimit=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=250
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
GresTypes=gpu
{_accounting(at)}
{nodes}
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 MaxTime=INFINITE DefaultTime=01:00:00 \
PreemptMode=REQUEUE GraceTime=0 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=INFINITE DefaultTime=01:00:00 PreemptMode=OFF State=UP
"""


def _accounting(at: Layout) -> str:
    if not at.accounting:
        return "AccountingStorageType=accounting_storage/none"
    # AuthInfo does not cover the connection to slurmdbd: AccountingStoragePass is its munge socket.
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={at.slurmdbd_port}
AccountingStoragePass={at.munge_socket}
AccountingStorageTRES=gres/gpu"""


def _changed(text: str, settings: Mapping[str, str]) -> str:
    """slurm.conf with other values: a key that is there twice is an error that every command repeats."""
    kept = [line for line in text.splitlines() if line.partition("=")[0] not in settings]
    return "\n".join([*kept, *(f"{name}={value}" for name, value in settings.items()), ""])


def gres_conf(at: Layout) -> str:
    """gres.conf: character devices, or CUDA_VISIBLE_DEVICES is never set."""
    return f"AutoDetect=off\nName=gpu Type=v100 File={at.devices}/nvidia[0-{GPUS - 1}]\n"


def slurmdbd_conf(at: Layout) -> str:
    """slurmdbd.conf; its database is found by MYSQL_UNIX_PORT in slurmdbd's environment."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={at.munge_socket}
DbdHost={at.hostname}
DbdAddr=127.0.0.1
DbdPort={at.slurmdbd_port}
SlurmUser=root
PidFile={at.root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""


def write(at: Layout) -> None:
    """Write all files with the modes that the daemons insist on."""
    at.conf.parent.mkdir(parents=True)
    at.conf.write_text(slurm_conf(at))
    if at.settings:
        at.conf.write_text(_changed(at.conf.read_text(), at.settings))
    (at.conf.parent / "gres.conf").write_text(gres_conf(at))
    (at.conf.parent / "cgroup.conf").write_text("CgroupPlugin=autodetect\nIgnoreSystemd=yes\n")
    if at.accounting:
        secret = at.conf.parent / "slurmdbd.conf"
        secret.touch(mode=0o600)
        secret.write_text(slurmdbd_conf(at))
