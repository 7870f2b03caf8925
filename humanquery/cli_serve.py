"""`humanquery serve`: people over HTTP."""

import os
from pathlib import Path
from typing import Annotated

import typer

from humanquery.cli_options import Device, Weights
from humanquery.core.errors import ConfigError

KEYS = "HUMANQUERY_API_KEYS"


def serve(
    weights: Weights = "",
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that share the port, each with its own model.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures that the model is given at once, at most.")
    ] = 4,
    wait: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a picture waits for others.")
    ] = 5,
    queue: Annotated[
        int, typer.Option(min=1, help="Pictures of a worker that may wait; more get 503.")
    ] = 64,
    max_mb: Annotated[float, typer.Option(min=0.001, help="Most megabytes of a body.")] = 50,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Most million pixels of a picture or frame.")
    ] = 50,
    max_pictures: Annotated[int, typer.Option(min=1, help="Most pictures of a list.")] = 16,
    max_frames: Annotated[int, typer.Option(min=1, help="Most frames of a clip.")] = 300,
    seconds: Annotated[
        float, typer.Option(min=0.001, help="In which pictures must be answered.")
    ] = 60,
    clip_seconds: Annotated[
        float, typer.Option(min=0.001, help="In which a clip must be answered.")
    ] = 300,
    upload_seconds: Annotated[
        float, typer.Option(min=0.001, help="In which a body must have come.")
    ] = 30,
    api_keys: Annotated[
        Path | None,
        typer.Option(help=f"File of API keys, one a line; or {KEYS}, comma-separated."),
    ] = None,
    cors_origin: Annotated[
        list[str],
        typer.Option(help="Page that may ask from a browser: https://example.org. Repeatable."),
    ] = [],  # noqa: B006 (typer copies it)
    allow_urls: Annotated[
        bool,
        typer.Option(
            "--allow-urls",
            help="Fetch pictures from http(s) addresses that clients name, also of your network.",
        ),
    ] = False,
    page: Annotated[bool, typer.Option(help="Show a page at / to try it.")] = True,
) -> None:
    """Find people over HTTP: POST pictures or short clips, get JSON; a page at / to try it.

    Example: humanquery serve --port 8000
    """
    keys = _keys(api_keys)
    try:
        from humanquery.serve.run import Place, serve
    except ImportError as problem:
        raise ConfigError(
            f"`humanquery serve` needs {problem.name}: pip install 'humanquery[serve]'"
        ) from problem
    from humanquery.predict.base import find_weights
    from humanquery.serve.config import ServiceConfig

    file = find_weights(weights or None)  # several workers would fail one after the other
    if not file.exists():
        raise ConfigError(f"{file}: no such weights file; check --weights")
    config = ServiceConfig(
        batch_size=batch_size,
        wait=wait / 1000,
        queue=queue,
        max_bytes=round(max_mb * 1e6),
        max_pixels=round(max_megapixels * 1e6),
        max_pictures=max_pictures,
        max_frames=max_frames,
        seconds=seconds,
        clip_seconds=clip_seconds,
        upload_seconds=upload_seconds,
        api_keys=keys,
        cors_origins=tuple(cors_origin),
        allow_urls=allow_urls,
        page=page,
    )
    serve(Place(weights, device, host, port, workers), config)


def _keys(file: Path | None) -> tuple[str, ...]:
    """API keys of the file, or of the environment. Not as an option of their own: what stands on
    a command line is seen by everybody on the machine."""
    if file is None:
        words = os.environ.get(KEYS, "").split(",")
    else:
        try:
            words = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(
                f"{file}: API keys cannot be read ({problem}); one key a line"
            ) from problem
    keys = tuple(word.strip() for word in words if word.strip())
    if file is not None and not keys:  # an empty file must not open the door
        raise ConfigError(f"{file}: holds no API key; one key a line")
    return keys
