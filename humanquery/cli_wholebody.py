"""`humanquery wholebody`: body, feet, face and hands of everybody."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from humanquery.cli_options import Device, Out, Overwrite, names_of
from humanquery.core.errors import CheckpointError, ConfigError, HumanQueryError

fit_app = typer.Typer(help="Fit numbers of a method on your own data.", no_args_is_help=True)


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
    pose_nms: Annotated[
        Path | None,
        typer.Option(help="When two poses are one person: a file of `humanquery fit pose-nms`."),
    ] = None,
    tracker: Annotated[
        str, typer.Option(help="Of videos: query (as humanquery track) or msim (AlphaPose).")
    ] = "query",
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
    if pose_nms is not None:
        from humanquery.commands.fit_pose_nms import read

        joining = read(pose_nms)
    from humanquery.predict.track_video import msim_config, track_config, track_video

    if tracker not in ("query", "msim"):
        raise ConfigError(f"--tracker {tracker}: expected query or msim")
    configure = msim_config if tracker == "msim" else track_config
    predictor = _loaded(weights, device, boxes)
    if pose_nms is not None:
        predictor.system.config = replace(predictor.system.config, nms=True, pose_nms=joining)
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
        config = configure(predictor, score)
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


def _loaded(weights: str, device: str, boxes: str) -> Any:
    from humanquery.predict import load
    from humanquery.predict.whole_body import WholeBodyPredictor

    predictor = load(weights, device, boxes=boxes or None)
    if not isinstance(predictor, WholeBodyPredictor):
        raise CheckpointError(
            f"{weights}: is no top-down model; give the weights of one, or use `humanquery predict`"
        )
    return predictor


@fit_app.command("pose-nms")
def pose_nms(
    data: Annotated[Path, typer.Option(help="Labelled people: COCO, COCO-WholeBody or Halpe.")],
    weights: Annotated[str, typer.Option("--weights", "-w", help="A top-down model.")],
    out: Out = Path("pose_nms.json"),
    images: Annotated[str, typer.Option(help="Folder of the pictures; default: images/.")] = "",
    layout: Annotated[str, typer.Option(help="coco, coco_wholebody or halpe.")] = "coco",
    boxes: Annotated[str, typer.Option(help="Who finds the people, as in wholebody.")] = "",
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")] = 0.1,
    limit: Annotated[int, typer.Option(min=0, help="Only the first pictures; 0: all.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fit when two poses are one person, by AlphaPose's alternating search on labelled pictures.

    Example: humanquery fit pose-nms --data people/train.json -w body.safetensors --out nms.json
    """
    from humanquery.media.output_names import output_file

    out = output_file(out, "fit pose-nms", [data], overwrite=overwrite)
    from humanquery.commands import fit_pose_nms
    from humanquery.data.readers.persons import PersonsConfig, checked_layout

    config = PersonsConfig(str(data), images, checked_layout(layout))
    predictor = _loaded(weights, device, boxes)
    poses = fit_pose_nms.labelled_poses(predictor, config, score, limit)
    start = predictor.system.pose_nms
    before = poses.score(start)
    fitted = fit_pose_nms.fit(poses, start)
    fit_pose_nms.write(fitted, before, out)
    typer.echo(f"AP {before:.3f} -> {fitted.value:.3f} on {len(poses.images)} pictures; {out}")
