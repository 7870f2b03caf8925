"""`humanquery predict` and `humanquery track`: pictures and videos in, people out."""

from pathlib import Path
from typing import Annotated

import typer

from humanquery.cli_options import Device, Out, Overwrite, Weights, names_of
from humanquery.core.errors import HumanQueryError


def predict(
    sources: Annotated[
        list[str], typer.Argument(help="Files, folders, globs, or - for a list on standard input.")
    ],
    out: Out = Path("humanquery_out"),
    weights: Weights = "",
    score: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out people below this; default: the model's."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Comma-separated: box, mask, keypoints, gender, age; default: all.")
    ] = "",
    no_attributes: Annotated[
        bool, typer.Option("--no-attributes", help="Leave out apparent gender and age.")
    ] = False,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    slices: Annotated[
        int,
        typer.Option(
            min=1,
            help="Look also at slices, so many along the longer side, for small people; each costs "
            "as much as a picture.",
        ),
    ] = 1,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Write only the numbers.")
    ] = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="Also people.csv: a row per person; tracks.csv of videos.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Of pictures: each person as a picture, in crops/.")
    ] = False,
    cut_outs: Annotated[
        bool,
        typer.Option("--cut-outs", help="Of pictures: each person as transparent PNG."),
    ] = False,
    blur_faces: Annotated[
        bool,
        typer.Option(
            "--blur-faces",
            help="Mosaic over faces, where nose, eyes or ears are found; not over people who are "
            "missed or turn away.",
        ),
    ] = False,
    urls: Annotated[
        bool, typer.Option("--urls", help="Fetch pictures of http(s) addresses.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find everybody in pictures: an annotated picture and a JSON each, and one COCO results file;
    follow videos.

    Example: humanquery predict photos/ --out found
    """
    from humanquery.predict.predict_folder import (
        FolderResult,
        check_sources,
        find_pictures,
        is_video,
        picture_stems,
        predict_sources,
    )

    videos = list(dict.fromkeys(filter(is_video, sources)))
    pictures = [source for source in sources if not is_video(source)]
    if pictures and not videos and "-" not in pictures:
        check_sources(find_pictures(pictures))  # before a model is loaded for nothing
    from humanquery.predict import load
    from humanquery.predict.track_video import check_video, track_config, track_video

    followed, playable = FolderResult(), []
    for video in videos:
        try:
            check_video(video)
            playable.append(video)
        except HumanQueryError as problem:
            followed.failed.append((video, str(problem)))
    result = FolderResult()
    if pictures or playable:
        predictor = load(weights or None, device)
        if slices > 1:
            from humanquery.predict.slices import SliceConfig, Sliced

            predictor = Sliced(predictor, SliceConfig(slices))
        options = {
            "tasks": names_of(tasks),
            "attributes": not no_attributes,
            "batch_size": batch_size,
            "overwrite": overwrite,
            "blur": blur_faces,
        }
        stems = picture_stems(playable)
        for video in playable:  # as it was typed: a Path would break an address
            folder = out / stems[video]
            config = track_config(predictor, score)
            save = (*(() if no_pictures else ("video",)), "json", *(("csv",) if csv else ()))
            try:
                found = track_video(predictor, video, folder, save=save, config=config, **options)
            except HumanQueryError as problem:
                followed.failed.append((video, str(problem)))
                continue
            followed.done += 1
            typer.echo(f"{found.identities} people in {found.frames} frames; results in {folder}")
        if pictures:
            result = predict_sources(
                predictor,
                pictures,
                out,
                score=score,
                pictures=not no_pictures,
                allow_urls=urls,
                csv=csv,
                crops=crops,
                cut_outs=cut_outs,
                **options,
            )
            typer.echo(f"{result.people} people in {result.done} pictures; results in {out}")
            if result.faces_left:
                typer.secho(
                    f"{result.faces_left} people have no face that could be placed: not blurred",
                    fg="yellow",
                    err=True,
                )
    result.failed += followed.failed
    result.done += followed.done
    for name, reason in result.failed:
        typer.secho(
            f"not done: {reason if name in reason else f'{name}: {reason}'}", fg="red", err=True
        )
    raise typer.Exit(result.exit_code)


def track(
    source: Annotated[
        str,
        typer.Argument(
            help="A video, a folder of frames, a webcam (0), an rtsp:// or http:// stream."
        ),
    ],
    out: Out = Path("humanquery_out"),
    save: Annotated[
        str, typer.Option(help="Comma-separated: video, mot, json, csv, parquet, coco.")
    ] = "video,json",
    weights: Weights = "",
    no_attributes: Annotated[
        bool, typer.Option("--no-attributes", help="Leave out apparent gender and age.")
    ] = False,
    motion_only: Annotated[
        bool, typer.Option("--motion-only", help="Do not compare human queries.")
    ] = False,
    by_query: Annotated[
        bool,
        typer.Option(
            "--by-query",
            help="Compare human queries although the model's card does not say what they are "
            "worth.",
        ),
    ] = False,
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Calm joints; they shiver from frame to frame.")
    ] = False,
    refresh: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames after which gender and age of a followed person are looked at again; "
            "1: in every frame, much slower.",
        ),
    ] = 30,
    blur_faces: Annotated[
        bool,
        typer.Option(
            "--blur-faces",
            help="Mosaic over faces, where nose, eyes or ears are found; not over people who are "
            "missed or turn away.",
        ),
    ] = False,
    line: Annotated[
        list[str],
        typer.Option(
            help="Count who crosses it, into counts.json: x1,y1,x2,y2 px, or door=x1,y1,x2,y2. "
            "Repeatable."
        ),
    ] = [],  # noqa: B006 (typer copies it)
    zone: Annotated[
        list[str],
        typer.Option(help="Count who is inside: x1,y1,x2,y2,x3,y3 ... or till=... Repeatable."),
    ] = [],  # noqa: B006
    patience: Annotated[
        int, typer.Option(min=0, help="Frames that a lost person is waited for.")
    ] = 30,
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1)] = 4,
    max_frames: Annotated[int, typer.Option(help="Stop after so many frames; 0: all.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    allow_changes: Annotated[
        bool,
        typer.Option("--allow-changes", help="Resume although video, model or options differ."),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Follow everybody through a video: who is who, frame by frame.

    Example: humanquery track street.mp4 --out found --save video,mot
    """
    from humanquery.predict.track_files import checked_formats
    from humanquery.predict.track_video import check_video, track_config, track_video
    from humanquery.tracking import SmoothConfig
    from humanquery.tracking.attributes import RefreshConfig

    if motion_only and by_query:
        raise typer.BadParameter("--motion-only and --by-query exclude each other; leave one out")
    formats = checked_formats(names_of(save) or [])
    counter = None
    if line or zone:
        from humanquery.tracking.zones import ZoneCounter, parse_line, parse_zone

        lines = [parse_line(text, i) for i, text in enumerate(line, 1)]
        counter = ZoneCounter(lines, [parse_zone(text, i) for i, text in enumerate(zone, 1)])
    check_video(source)  # before a model is loaded for nothing
    from humanquery.predict import load

    predictor = load(weights or None, device)
    chosen = {
        "patience": patience,
        "smooth": SmoothConfig() if smooth else None,
    }
    if motion_only or by_query:
        chosen["appearance"] = by_query
    result = track_video(
        predictor,
        source,
        out,
        save=formats,
        config=track_config(predictor, **chosen),
        attributes=not no_attributes,
        batch_size=batch_size,
        resume=resume,
        max_frames=max_frames,
        overwrite=overwrite,
        allow_changes=allow_changes,
        blur=blur_faces,
        counter=counter,
        refresh=RefreshConfig(every=refresh),
    )
    for change in result.changes:
        typer.echo(f"allowed change: {change}")
    for problem in result.problems:
        typer.secho(problem, fg="yellow", err=True)
    rate = result.frames / max(result.seconds, 1e-6)
    typer.echo(f"{result.identities} people in {result.frames} frames ({rate:.1f} per second)")
    for each in counter.report()["lines"] if counter else ():
        typer.echo(f"{each['name']}: {each['in']} in, {each['out']} out")
    for each in counter.report()["zones"] if counter else ():
        counted = f"{each['people']} people, at most {each['most_at_once']} at once"
        typer.echo(f"{each['name']}: {counted}")
    for path in result.files:
        typer.echo(path)
