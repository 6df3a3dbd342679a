"""SLURM's requeue: a job whose time is almost up is started again, and its script resumes the run."""

import os
import subprocess

REQUEUE_SIGNAL = "SIGUSR1"  # sent before the end by ``#SBATCH --signal=USR1@120``


def requeue() -> str:
    """Ask SLURM to start this job again.

    Returns:
        What happened, for a message; empty outside a job.
    """
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    words = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        failed = done.stderr.strip() or f"exit code {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        failed = str(error)
    said = " ".join(words)
    return f"`{said}` failed ({failed}): submit the job again. " if failed else f"SLURM starts job {job} again. "
