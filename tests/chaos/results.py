"""Counts of a campaign, its JSON file, and the table of docs/reliability.md."""

import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .harness import ANSWERS, Case, Outcome, Warm, faults

KINDS = {  # what a fault is called in code, and in the table
    "traceback": "tracebacks",
    "hang": "hangs",
    "code run": "code run",
    "bits lost": "bits lost",
    "other": "other",
}


@dataclass
class Result:
    """Counts of one campaign; `failed` describes each case with a fault."""

    campaign: str
    seed: int
    cases: int = 0
    seconds: float = 0
    slowest_s: float = 0
    peak_mb: float = 0
    exit_codes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int | str] = field(default_factory=dict)
    failed: list[dict[str, object]] = field(default_factory=list)

    def add(self, name: str, command: str, found: Sequence[str], outcome: Outcome) -> None:
        """Count one case."""
        self.cases += 1
        self.slowest_s = max(self.slowest_s, round(outcome.seconds, 1))
        self.peak_mb = max(self.peak_mb, round(outcome.peak_mb))
        self.exit_codes[str(outcome.code)] = self.exit_codes.get(str(outcome.code), 0) + 1
        self.faults = dict(Counter(self.faults) + Counter(found))
        if found:
            said = outcome.err.strip()[-600:]
            self.failed.append(
                {"case": name, "command": command, "faults": list(found), "code": outcome.code, "stderr": said}
            )

    def write(self, folder: Path) -> None:
        """Write `folder`/CAMPAIGN.json, and the table of all campaigns there to `folder`/table.md."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.campaign}.json").write_text(json.dumps(asdict(self) | machine(), indent=2) + "\n")
        (folder / "table.md").write_text(table(folder))


def run_cases(
    campaign: str,
    seed: int,
    warm: Warm,
    made: Iterable[tuple[Case, Path]],
    allowed: Sequence[int] = ANSWERS,
) -> Result:
    """Run cases one after the other and count their faults; folders of cases that passed are removed."""
    result, start = Result(campaign, seed), time.monotonic()
    for case, folder in made:
        outcome = warm.run(case, folder)
        found = faults(case, outcome, folder, allowed)
        result.add(f"{folder.name} {case.name}", f"{case.command} {' '.join(case.arguments)}"[:400], found, outcome)
        if found:
            print(
                f"{folder.name} {case.name}: {', '.join(found)} (code {outcome.code}) {outcome.err[-160:]!r}",
                flush=True,
            )
        else:
            shutil.rmtree(folder, ignore_errors=True)
    result.seconds = round(time.monotonic() - start)
    return result


def machine() -> dict[str, object]:
    """What the figures depend on."""
    import os
    from importlib.metadata import version

    names = ("torch", "lightning", "pillow", "jsonargparse")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in names}},
    }


def table(folder: Path) -> str:
    """A Markdown table of the JSON files of a folder."""
    rows = [
        f"| campaign | cases | {' | '.join(KINDS.values())} | slowest case | minutes |",
        "|---|" + "---|" * (len(KINDS) + 3),
    ]
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())
        counts = [found["faults"].get(kind, 0) for kind in KINDS if kind != "other"]
        counts.append(sum(found["faults"].values()) - sum(counts))
        cells = [found["campaign"], found["cases"], *counts, f"{found['slowest_s']} s", round(found["seconds"] / 60, 1)]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"
