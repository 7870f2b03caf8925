"""A service under many clients at once: well-behaved ones, slow ones, and some that send nonsense.

    python -m benchmarks.serving --out serving.json              200 clients for a minute
    python -m benchmarks.serving --clients 20 --seconds 20       fewer, for less
    python -m benchmarks.serving --stand-in 0.02                 the service alone: its model only
                                                                 waits, so many seconds a picture
    python -m benchmarks.serving --arguments --workers 2         arguments of `humanquery serve`

Starts `humanquery serve` in a process of its own and talks to it over loopback. Each client sends
street scenes one after the other; where the service is busy (503) it waits as `Retry-After` says.
A slow client sends a few bytes a second until it is let go; a malformed one sends broken forms,
cut-off pictures and bodies of other kinds, which must be answered with 4xx. Resident memory of
the service is read from /proc twice a second, so it runs on Linux only. Last of all the service
is asked to stop while every client still asks: what had been taken must be answered.
"""

import argparse
import asyncio
import contextlib
import io
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.memory import resident_mb
from benchmarks.results import save
from humanquery.data.scenes.scenes import open as open_scenes
from humanquery.data.scenes.scenes import street_scenes

STARTING = 120.0
"""seconds in which a service must be ready"""
FORM = {"Content-Type": "multipart/form-data; boundary=cut"}
MALFORMED = (
    (b"no form at all", FORM),
    (b"--cut\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nhalf", FORM),
    (b"\xff\xd8\xff\xe0" + bytes(2000), {"Content-Type": "image/jpeg"}),
    (b"#EXTM3U\nfile:///etc/hostname\n", {"Content-Type": "image/png"}),
    (b'{"url": "http://127.0.0.1/a.jpg"}', {"Content-Type": "application/json"}),
    (b"words", {"Content-Type": "text/plain"}),
)


@dataclass
class Seen:
    """What clients of one kind lived through."""

    statuses: Counter = field(default_factory=Counter)
    """of answers, or the name of what was raised"""
    seconds: list[float] = field(default_factory=list)
    """of answers with people"""


def pictures(count: int = 4) -> list[bytes]:
    """JPEGs of street scenes, 480 x 640."""
    scenes, found = open_scenes(street_scenes(seed=1, size=(480, 640))), []
    for i in range(count):
        written = io.BytesIO()
        Image.fromarray(scenes[i].image).save(written, "JPEG", quality=90)
        found.append(written.getvalue())
    return found


async def well_behaved(
    client: httpx.AsyncClient, given: Sequence[bytes], until: float, seen: Seen
) -> None:
    """Asks until the time is over."""
    i = 0
    while time.monotonic() < until:
        begun = time.monotonic()
        try:
            answer = await client.post("/v1/picture", content=given[i % len(given)])
        except httpx.HTTPError as problem:
            seen.statuses[_named(problem, until)] += 1
            await asyncio.sleep(0.5)
            continue
        seen.statuses[str(answer.status_code)] += 1
        i += 1
        if answer.status_code == 200:
            seen.seconds.append(time.monotonic() - begun)
        elif answer.status_code == 503:
            wait = float(answer.headers["Retry-After"])
            await asyncio.sleep(min(wait, max(until - time.monotonic(), 0)))


async def malformed(client: httpx.AsyncClient, until: float, seen: Seen) -> None:
    """Sends what is no picture, one nonsense after the other."""
    i = 0
    while time.monotonic() < until:
        content, headers = MALFORMED[i % len(MALFORMED)]
        i += 1
        try:
            answer = await client.post("/v1/picture", content=content, headers=headers)
            seen.statuses[str(answer.status_code)] += 1
        except httpx.HTTPError as problem:
            seen.statuses[_named(problem, until)] += 1
        await asyncio.sleep(0.2)


def _named(problem: httpx.HTTPError, until: float) -> str:
    """What is counted in place of an answer. A service that stops refuses connections, and closes
    those over which it has read no request."""
    name = type(problem).__name__
    if time.monotonic() < until:
        return name
    return "refused after the stop" if name == "ConnectError" else f"{name} at the stop"


async def slow(port: int, until: float, seen: Seen) -> None:
    """Begins requests that it never ends, and counts how it is let go."""
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/picture HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < until and not reader.at_eof():
                writer.write(b"\xff\xd8\xff")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    first = await asyncio.wait_for(reader.readline(), 1.0)
                    if first:
                        seen.statuses[first.split()[1].decode()] += 1
                        break
        writer.close()


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{one}/task").glob("*/children"):
                found += [int(child) for child in file.read_text(encoding="utf-8").split()]
    return found


async def sampled(pid: int, until: float, samples: list[float]) -> None:
    while time.monotonic() < until:
        samples.append(round(resident_mb(family(pid)), 1))
        await asyncio.sleep(0.5)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def wait_until_ready(address: str, process: subprocess.Popen) -> float:
    """Seconds that the service took."""
    begun = time.monotonic()
    while time.monotonic() - begun < STARTING:
        if process.poll() is not None:
            raise SystemExit(f"humanquery serve ended at once with {process.returncode}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return time.monotonic() - begun
        time.sleep(0.2)
    raise SystemExit(f"humanquery serve was not ready after {STARTING:g} s")


def summary(seen: Seen, seconds: float) -> dict[str, Any]:
    """Counts, and of answers with people their number per second and quantiles of their time."""
    times = sorted(seen.seconds)
    found = {"statuses": dict(sorted(seen.statuses.items()))}
    if times:
        found["per_second"] = round(len(times) / seconds, 2)
        found["median_s"] = round(statistics.median(times), 3)
        found["p95_s"] = round(times[min(int(0.95 * len(times)), len(times) - 1)], 3)
        found["longest_s"] = round(times[-1], 3)
    return found


def memory(samples: Sequence[float]) -> dict[str, float]:
    """MB: before anybody asked, at most, and at the end of each half."""
    half = max(len(samples) // 2, 1)
    return {
        "before": samples[0],
        "largest_first_half": max(samples[:half]),
        "largest_second_half": max(samples[half:] or samples),
    }


def table(kinds: dict[str, dict[str, Any]], used: dict[str, float]) -> str:
    lines = [f"{'clients':<14}{'answers':<44}{'per s':>7}{'median':>9}{'p95':>9}{'longest':>9}"]
    for name, found in kinds.items():
        counts = ", ".join(f"{n} x {status}" for status, n in found["statuses"].items()) or "none"
        cells = [found.get(key) for key in ("per_second", "median_s", "p95_s", "longest_s")]
        numbers = "".join(
            f"{'-' if v is None else format(v, '.2f'):>{7 if i == 0 else 9}}"
            for i, v in enumerate(cells)
        )
        lines.append(f"{name:<14}{counts:<44}{numbers}")
    said = ", ".join(f"{name.replace('_', ' ')} {value:.0f}" for name, value in used.items())
    return "\n".join([*lines, f"resident MB: {said}"])


async def measured(
    address: str, process: subprocess.Popen, given: argparse.Namespace
) -> tuple[dict[str, Seen], list[float]]:
    """What all clients lived through, and the samples of memory; at the end of the time the
    service is asked to stop."""
    until = time.monotonic() + given.seconds
    seen = {name: Seen() for name in ("well-behaved", "malformed", "slow")}
    samples = [round(resident_mb(family(process.pid)), 1)]
    limits = httpx.Limits(max_connections=given.clients + given.malformed)
    shown, port = pictures(), int(address.rpartition(":")[2])
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=120) as client:
        kind = seen["well-behaved"]
        tasks = [well_behaved(client, shown, until, kind) for _ in range(given.clients)]
        tasks += [malformed(client, until, seen["malformed"]) for _ in range(given.malformed)]
        tasks += [slow(port, until, seen["slow"]) for _ in range(given.slow)]
        tasks.append(sampled(process.pid, until, samples))
        running = asyncio.gather(*tasks)
        await asyncio.sleep(given.seconds)
        process.send_signal(signal.SIGTERM)
        await running
    return seen, samples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--slow", type=int, default=10)
    parser.add_argument("--malformed", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stand-in", type=float, help="seconds per picture; default: a model")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arguments", nargs=argparse.REMAINDER, default=[])
    given = parser.parse_args()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = ["humanquery", "serve", "--port", str(port), *given.arguments]
    if given.stand_in is not None:
        command = ["benchmarks.serving_stand_in", str(port), str(given.stand_in)]
    command = [sys.executable, "-m", *command]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            ready = wait_until_ready(address, process)
            seen, samples = asyncio.run(measured(address, process, given))
            left = time.monotonic()
            code = process.wait(180)
            stopped = time.monotonic() - left
        finally:
            if process.poll() is None:
                process.kill()
    kinds = {name: summary(found, given.seconds) for name, found in seen.items()}
    print(table(kinds, memory(samples)))
    print(f"ready after {ready:.1f} s; stopped {stopped:.1f} s after the last answer, code {code}")
    save(
        given.out,
        given,
        clients=kinds,
        memory_mb=memory(samples),
        ready_s=round(ready, 1),
        stopped_s=round(stopped, 1),
        exit_code=code,
    )


if __name__ == "__main__":
    main()
