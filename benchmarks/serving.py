"""``make bench-serve``: clients that ask a server at once, beside the same images translated as a folder.

The server is a process of its own on this machine's loopback.  Each client has an image of its own and sends it again
as soon as it was answered; after a 503 it waits for the seconds of Retry-After.  CPU time is per answer with an image,
of the server, the clients (refused requests included) and the folder.  Every answer is compared with
the translation that `Translator` gives.  Weights are random, which changes no time.
"""

import argparse
import asyncio
import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.context import device_name, typed_command
from benchmarks.translate import random_adapter
from datamodules.scenes import render
from images.headers import check_headers
from images.writing import write_image
from inference.backends.exported import CARD
from inference.folder import choose, translate_folder
from inference.jobs import Settings, plan
from inference.translator import Translator
from metrics.scores import markdown_table
from storage import cores, digest, read_json, write_json

MIB = 1 << 20
STARTED = re.compile(r"Listening on (http://\S+)")


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """A server in a process of its own; its address.

    Args:
        arguments: of `commands.serve`, without the port.

    Raises:
        RuntimeError: it does not start.
    """
    command = [sys.executable, "-m", "commands.serve", "--port=0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := STARTED.search(line):
                    yield found[1]
                    break
            else:
                raise RuntimeError(f"The server ended with exit code {process.wait()}.")
        finally:
            process.terminate()
            process.communicate()


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: from a request to its answer, one per answer with an image.
        statuses: number of answers by status.
        contents: different answers of each client, by their digest.
        lasted: seconds of it all.
        memory: of the server before and after, bytes.
        server_cpu: seconds of CPU time that the server took.
        clients_cpu: likewise, of this process.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    contents: list[dict[str, bytes]] = field(default_factory=list)
    lasted: float = 0.0
    memory: tuple[float, float] = (0.0, 0.0)
    server_cpu: float = 0.0
    clients_cpu: float = 0.0

    @property
    def per_second(self) -> float:
        """Images per second."""
        return len(self.seconds) / self.lasted

    def percentile(self, q: float) -> float:
        """The seconds within which a share ``q`` of the requests was answered."""
        return float(np.quantile(self.seconds, q))


async def load(address: str, images: Sequence[bytes], seconds: float) -> Load:
    """One client per image, all at once, for some seconds.

    Args:
        address: of the server.
        images: content of an image file for each client.
        seconds: after which no client sends its image again, but for those whose last request was refused.
    """
    found = Load(contents=[{} for _ in images])
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:

        async def client(number: int) -> None:
            refused = False
            while refused or time.perf_counter() < end:
                sent = time.perf_counter()
                answer = await http.post("/translate", content=images[number])
                found.statuses[answer.status_code] += 1
                refused = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                if answer.status_code == httpx.codes.OK:
                    found.seconds.append(time.perf_counter() - sent)
                    found.contents[number].setdefault(digest([answer.content]), answer.content)
                elif refused:
                    await asyncio.sleep(float(answer.headers["retry-after"]))

        before = process_metrics(await http.get("/metrics"))
        start, cpu = time.perf_counter(), time.process_time()
        end = start + seconds
        await asyncio.gather(*(client(number) for number in range(len(images))))
        found.lasted, found.clients_cpu = time.perf_counter() - start, time.process_time() - cpu
        after = process_metrics(await http.get("/metrics"))
    found.memory = before[0], after[0]
    found.server_cpu = after[1] - before[1]
    return found


def process_metrics(answer: httpx.Response) -> tuple[float, float]:
    """Bytes in main memory and seconds of CPU time of a server's process, of its ``/metrics``."""
    samples = {one.name: one for family in text_string_to_metric_families(answer.text) for one in family.samples}
    return samples["process_resident_memory_bytes"].value, samples["process_cpu_seconds_total"].value


def largest_difference(found: Load, references: Sequence[np.ndarray[Any, Any]]) -> int:
    """The largest difference of any answer's pixels to its client's own reference, in 8-bit steps.

    Args:
        found: answers.
        references: ``(H, W, 3)`` uint8 of each client.

    Raises:
        ValueError: an answer is nearer to another client's reference.
    """
    largest = 0
    for number, contents in enumerate(found.contents):
        for content in contents.values():
            pixels = np.asarray(Image.open(io.BytesIO(content)), np.int16)
            distances = [np.abs(pixels - one).mean() if one.shape == pixels.shape else np.inf for one in references]
            if np.argmin(distances) != number:
                raise ValueError(f"Client {number} got the translation of client {np.argmin(distances)}.")
            largest = max(largest, int(np.abs(pixels - references[number]).max()))
    return largest


def quick_start(work: Path) -> Path:
    """An adapter of pocket at random values, whose card tells the size that the quick starts are trained at."""
    adapter = random_adapter("pocket", work)
    card = adapter / CARD
    write_json(card, read_json(card) | {"preprocessing": {"eval_size": 128}})
    return adapter


def folder_times(translator: Translator, folder: Path, out: Path) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, per image of `translate_folder`, which `make translate` calls."""
    settings = Settings(prompt=translator.prompts(None, "a2b")[0])
    jobs = plan(folder, out)
    tasks, _ = choose(jobs, check_headers(image for image, _ in jobs), translator, settings)
    start, cpu = time.perf_counter(), time.process_time()
    outcomes = list(translate_folder(translator, tasks, settings))
    return (time.perf_counter() - start) / len(outcomes), (time.process_time() - cpu) / len(outcomes)


def main(args: list[str] | None = None) -> int:
    """Measure, print the table, write JSON where asked; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    p.add_argument("--clients", type=int, default=64, metavar="N", help="(default %(default)s)")
    p.add_argument("--seconds", type=float, default=300, metavar="S", help="of all rounds (default %(default)g)")
    p.add_argument("--rounds", type=int, default=3, metavar="N", help="(default %(default)s)")
    p.add_argument("--sizes", type=int, nargs="+", default=[512], metavar="PIXELS", help="(default: 512)")
    p.add_argument("--ckpt", type=Path, help="adapter (default: one of pocket with random weights)")
    p.add_argument("--out", type=Path, help="also write JSON")
    own = p.parse_args(args)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        adapter = own.ckpt or quick_start(work)
        translator = Translator.load(adapter, "float32")
        for size in own.sizes:
            folder = work / str(size)
            files = [folder / f"{k:03}.jpg" for k in range(own.clients)]
            for k, file in enumerate(files):
                write_image(file, render("day_night", "a", 0, k, size))
            references = [np.asarray(translator(file), np.int16) for file in files]
            contents = [file.read_bytes() for file in files]
            with served(f"--ckpt={adapter}", "--precision=float32") as address:
                asyncio.run(load(address, contents, 2.0))  # warms up
                for number in range(own.rounds):
                    found = asyncio.run(load(address, contents, own.seconds / own.rounds))
                    alone, alone_cpu = folder_times(translator, folder, work / f"out-{size}-{number}")
                    answered = len(found.seconds)
                    rows.append(
                        {
                            "size": size,
                            "clients": own.clients,
                            "answers": {str(status): count for status, count in sorted(found.statuses.items())},
                            "largest_difference": largest_difference(found, references),
                            "images_per_second": found.per_second,
                            "folder_images_per_second": 1 / alone,
                            "ratio": found.per_second * alone,
                            "server_cpu_per_image": found.server_cpu / answered,
                            "clients_cpu_per_image": found.clients_cpu / answered,
                            "folder_cpu_per_image": alone_cpu,
                            "p50_seconds": found.percentile(0.5),
                            "p99_seconds": found.percentile(0.99),
                            "memory_growth_mib": (found.memory[1] - found.memory[0]) / MIB,
                        }
                    )
    heads = [
        *("pixels", "answers", "images/s", "folder images/s", "ratio", "CPU ms: server", "clients", "folder"),
        *("p50 s", "p99 s", "difference", "memory MiB"),
    ]
    cells = [
        [
            str(row["size"]),
            ", ".join(f"{status}: {count}" for status, count in row["answers"].items()),
            f"{row['images_per_second']:.1f}",
            f"{row['folder_images_per_second']:.1f}",
            f"{row['ratio']:.2f}",
            *(f"{row[f'{who}_cpu_per_image'] * 1000:.0f}" for who in ("server", "clients", "folder")),
            f"{row['p50_seconds']:.2f}",
            f"{row['p99_seconds']:.2f}",
            f"{row['largest_difference']}/255",
            f"{row['memory_growth_mib']:+.0f}",
        ]
        for row in rows
    ]
    print(markdown_table(heads, cells))
    print(f"Median ratio: {statistics.median(row['ratio'] for row in rows):.2f}")
    if own.out:
        about = {"command": typed_command(p, args), "device": device_name(), "cores": cores()}
        write_json(own.out, {**about, "rows": rows})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
