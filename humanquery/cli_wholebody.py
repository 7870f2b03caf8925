"""`humanquery wholebody`: body, feet, face and hands of everybody."""

from pathlib import Path
from typing import Annotated

import typer

from humanquery.cli_options import Device, Out, Overwrite, names_of
from humanquery.core.errors import HumanQueryError


def wholebody(
    sources: Annotated[
        list[str],
        typer.Argument(help="Pictures, folders, globs, videos, or - for a list on standard input."),
    ],
    out: Out = Path("humanquery_out"),
    weights: Annotated[
        str,
        typer.Option("--weights", "-w", help="A shipped name or a file of a top-down model."),
    ] = "wholebody-small",
    boxes: Annotated[
        str,
        typer.Option(
            help="Who finds the people: a model's name or file, an exported file, a .json of "
            "boxes; default: the shipped model."
        ),
    ] = "",
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out people below this; default: the model's."),
    ] = None,
    format: Annotated[
        str,
        typer.Option(help="Comma-separated: alphapose, cmu, open, coco, coco-wholebody."),
    ] = "alphapose",
    device: Device = "auto",
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Write only the numbers.")
    ] = False,
    urls: Annotated[
        bool, typer.Option("--urls", help="Fetch pictures of http(s) addresses.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read everybody's pose from the top down: a detector's boxes, then joints crop by crop. Our
    own JSON and an annotated picture each, and one results file per format; videos are followed.

    Example: humanquery wholebody photos/ --out poses --format alphapose,coco-wholebody
    """
    from humanquery.predict.predict_folder import (
        FolderResult,
        check_sources,
        find_pictures,
        is_video,
        picture_stems,
    )
    from humanquery.predict.whole_body_folder import checked, predict_whole_bodies

    formats = checked(names_of(format) or [])
    videos = list(dict.fromkeys(filter(is_video, sources)))
    pictures = [source for source in sources if not is_video(source)]
    if pictures and not videos and "-" not in pictures:
        check_sources(find_pictures(pictures))  # before a model is loaded for nothing
    from humanquery.core.errors import CheckpointError
    from humanquery.predict import load
    from humanquery.predict.track_video import track_config, track_video
    from humanquery.predict.whole_body import WholeBodyPredictor

    predictor = load(weights, device, boxes=boxes or None)
    if not isinstance(predictor, WholeBodyPredictor):
        raise CheckpointError(
            f"{weights}: is no top-down model; give the weights of one, or use `humanquery predict`"
        )
    result, stems = FolderResult(), picture_stems(videos)
    if pictures:
        result = predict_whole_bodies(
            predictor,
            pictures,
            out,
            formats=formats,
            score=score,
            pictures=not no_pictures,
            overwrite=overwrite,
            allow_urls=urls,
        )
        typer.echo(f"{result.people} people in {result.done} pictures; results in {out}")
    save = (*(() if no_pictures else ("video",)), "json", *formats)
    for video in videos:
        config = track_config(predictor, score)
        try:
            found = track_video(
                predictor, video, out / stems[video], save=save, config=config, overwrite=overwrite
            )
        except HumanQueryError as problem:
            result.failed.append((video, str(problem)))
            continue
        result.done += 1
        typer.echo(f"{found.identities} people in {found.frames} frames; in {out / stems[video]}")
    for name, reason in result.failed:
        typer.secho(
            f"not done: {reason if name in reason else f'{name}: {reason}'}", fg="red", err=True
        )
    raise typer.Exit(result.exit_code)
