"""Start or join a Ray cluster; its workers find this checkout, and Ray reports nothing about its use.

Trials of a grid (`ablation.engine`) and folders of images (`inference.cluster`) run on it.
"""

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

# Ray reads these when it is imported: no usage reports, no change of the working folder, no hints on its console.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # work runs at normal priority

import ray

from storage import cores

OBJECT_STORE = 128 * 2**20  # bytes: workers exchange numbers and names
Node = Mapping[str, float]
"""Resources of a machine of the cluster: "CPU", "GPU"."""


def join_cluster(address: str | None) -> list[Node]:
    """Join a cluster, or start one on this machine; `ray.shutdown` leaves or stops it.

    Args:
        address: ``host:port`` of a running cluster, "auto" for the one of this machine; None starts one.

    Returns:
        The resources of each machine.

    Raises:
        ValueError: there is no cluster at the address.
    """
    if address is not None and address != "auto":
        _check_address(address)
    try:
        ray.init(
            address=address or "local",  # without, Ray would join whatever cluster it finds
            include_dashboard=False,
            log_to_driver=False,
            num_cpus=None if address else _available_cores(),
            configure_logging=False,
            object_store_memory=None if address else OBJECT_STORE,
            runtime_env={"env_vars": {"PYTHONPATH": _search_path()}},
        )
    except ConnectionError as error:
        raise ValueError(f"No Ray cluster at {address}: start one with `ray start --head`.") from error
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fit(node: Node, cores: int, gpus: float) -> int:
    """Number of workers that fit on a machine; a fraction of a GPU comes from one card.

    Args:
        node: its resources.
        cores: CPU threads of a worker.
        gpus: GPUs of a worker.
    """
    by_cores = int(node.get("CPU", 0) // cores)
    cards = int(node.get("GPU", 0))
    if not gpus:
        return by_cores
    return min(by_cores, cards * int(1 / gpus) if gpus < 1 else int(cards // gpus))


def described(nodes: Iterable[Node]) -> str:
    """Cores and GPUs of each kind of machine, for messages: "2 and 0 or 16 and 1"."""
    return " or ".join(sorted({f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes}))


def _check_address(address: str) -> None:
    """Fail after 10 seconds where nothing answers; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"No Ray cluster at {address} ({error}): give host:port as `ray start --head` says, or auto."
        ) from error


def _available_cores() -> int | None:
    """Cores that this process may use, if fewer than the machine has; else None: Ray itself sees container limits."""
    return cores() if cores() < (os.cpu_count() or 0) else None


def _search_path() -> str:
    """PYTHONPATH of the workers, which start in another folder: this checkout first."""
    here = str(Path(__file__).parent)
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
