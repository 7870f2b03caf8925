"""Starts the service: one process, or several that share a port."""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead

from humanquery.core.code_files import import_file, imported_files
from humanquery.predict import BasePredictor, load
from humanquery.serve.app import create_app
from humanquery.serve.config import ServiceConfig
from humanquery.serve.metrics import SHARED
from humanquery.serve.watch import PatientProtocol

SETTINGS = "HUMANQUERY_SERVE"
"""what a process tells its workers: JSON of model, device and `ServiceConfig`"""
MOST_CONNECTIONS = 1000
"""of one worker; more are refused by uvicorn (503)"""

STOP_SECONDS = 120
"""that requests which were taken may still need once the service is asked to stop"""
_OPTIONS = {
    "http": PatientProtocol,
    "ws": "none",
    "limit_concurrency": MOST_CONNECTIONS,
    "timeout_graceful_shutdown": STOP_SECONDS,
    "server_header": False,
}


@dataclass(frozen=True)
class Place:
    """Where a service listens, and what it serves."""

    weights: str = ""
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1


def serve(place: Place, config: ServiceConfig) -> None:
    """Serves until SIGTERM or SIGINT; what was taken by then is finished first."""
    if place.workers == 1:
        predictor = load(place.weights or None, place.device)  # before the port is taken
        run(predictor, config, host=place.host, port=place.port)
        return
    settings = {"weights": place.weights, "device": place.device, "config": asdict(config)}
    settings["imports"] = imported_files()
    with tempfile.TemporaryDirectory(prefix="humanquery-metrics-") as numbers:
        # workers are new processes: they learn what they serve, how many cores are theirs and
        # where they count together from their environment
        os.environ[SETTINGS] = json.dumps(settings)
        os.environ.setdefault(SHARED, numbers)
        share = max((os.cpu_count() or 1) // place.workers, 1)
        os.environ.setdefault("OMP_NUM_THREADS", str(share))
        factory = f"{__name__}:worker"
        listening = {"host": place.host, "port": place.port, "workers": place.workers}
        uvicorn.run(factory, factory=True, **listening, **_OPTIONS)


def run(
    predictor: BasePredictor,
    config: ServiceConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Serves a predictor of one's own in this process until SIGTERM or SIGINT."""
    uvicorn.run(create_app(lambda: predictor, config), host=host, port=port, **_OPTIONS)


def worker() -> FastAPI:
    """The application of one of several workers, as its parent's `serve` wants it."""
    settings = json.loads(os.environ[SETTINGS])
    for file in settings["imports"]:
        import_file(file)
    said = settings["config"]
    lists = {name: tuple(value) for name, value in said.items() if isinstance(value, list)}
    _forget_the_dead(Path(os.environ[SHARED]))
    return create_app(
        lambda: load(settings["weights"] or None, settings["device"]),
        ServiceConfig(**(said | lists)),
    )


def _forget_the_dead(folder: Path) -> None:
    """What workers that are gone had waiting does not wait any more."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            mark_process_dead(int(pid), str(folder))
