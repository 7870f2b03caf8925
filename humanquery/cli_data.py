"""`humanquery data ...`: check, count and make data."""

import json
from pathlib import Path
from typing import Annotated

import typer

from humanquery.cli_options import Out, Overwrite

data_app = typer.Typer(help="Check, count, draw and make data.", no_args_is_help=True)


@data_app.command()
def check(
    annotations: Annotated[Path, typer.Argument(help="COCO-like annotation file.")],
    images: Annotated[Path | None, typer.Option(help="Its pictures, to be looked at too.")] = None,
    read_pictures: Annotated[
        bool, typer.Option("--read-pictures", help="Decode every picture, not only its header.")
    ] = False,
) -> None:
    """Name what is wrong with labels and pictures.

    Example: humanquery data check people/train.json --images people/images
    """
    from humanquery.data.check.doctor import check as examine
    from humanquery.data.check.doctor import print_report

    found = examine(annotations, images, read_pictures=read_pictures)
    print_report(found)
    raise typer.Exit(0 if found.ok else 1)


@data_app.command()
def stats(
    annotations: Annotated[Path, typer.Argument()],
    out: Out = Path("stats"),
    overwrite: Overwrite = False,
) -> None:
    """Tables and plots of gender, age, sizes and visibility.

    Example: humanquery data stats people/train.json --out stats
    """
    from humanquery.media.output_names import OutputFolder

    folder = OutputFolder(out, "data stats", [annotations], overwrite=overwrite)
    from humanquery.data.check.stats import FILES, measure, print_stats, write

    for name in FILES:
        folder.fixed(name)
    found = measure(annotations)
    print_stats(found)
    for path in write(found, out, annotations.name):
        typer.echo(path)


@data_app.command()
def generate(
    out: Out,
    count: Annotated[int, typer.Option(min=1)] = 100,
    seed: int = 0,
    kind: Annotated[str, typer.Option(help="easy, mixed or street")] = "mixed",
    overwrite: Overwrite = False,
) -> None:
    """Draw scenes of people with exact labels, as pictures and a COCO file.

    Example: humanquery data generate --count 1000 --out scenes
    """
    from humanquery.media.output_names import OutputFolder

    folder = OutputFolder(out, "data generate", overwrite=overwrite)
    for name in ("annotations.json", "images"):
        folder.fixed(name)
    from humanquery.data.scenes.scenes import preset, write_scenes

    path = write_scenes(preset(kind, seed=seed, count=count), out)
    typer.echo(f"{count} scenes; {path}")


@data_app.command("aggregate-votes")
def aggregate_votes(
    votes: Annotated[Path, typer.Argument(help="JSON or CSV of votes.")],
    out: Out = Path("ages.json"),
    overwrite: Overwrite = False,
) -> None:
    """Ten group votes and ten age votes per person to one apparent age, and how consistent they
    are.

    Example: humanquery data aggregate-votes votes.json --out ages.json
    """
    from humanquery.media.output_names import output_file

    out = output_file(out, "data aggregate-votes", [votes], overwrite=overwrite)
    from humanquery.data.check.votes import aggregate

    result = aggregate(votes, out)
    typer.echo(
        json.dumps({name: value for name, value in result.items() if name != "people"}, indent=1)
    )
    typer.echo(out)


@data_app.command("convert")
def convert_labels(
    source: Annotated[
        Path,
        typer.Argument(
            help="COCO, Label Studio JSON, CVAT XML, a YOLO folder, a MOT clip, or a folder of "
            "humanquery predict."
        ),
    ],
    out: Out,
    to: Annotated[
        str, typer.Option(help="coco, yolo-pose, yolo-seg, yolo, label-studio, cvat or mot.")
    ],
    kind: Annotated[
        str, typer.Option("--from", help="What SOURCE is; default: what it looks like.")
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="Folder of the pictures, where the labels do not say it.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Copy the pictures into YOLO folders and MOT clips.")
    ] = True,
    overwrite: Overwrite = False,
) -> None:
    """Label files of one tool as those of another; what people found, as pre-annotations.

    Example: humanquery data convert found --to label-studio --out tasks
    """
    from humanquery.interop.convert import convert

    done = convert(source, to, out, kind=kind, pictures=images, copy=pictures, overwrite=overwrite)
    typer.echo(f"{done.kind} to {to}: {done.people} people in {done.pictures} pictures; {done.out}")
    for what, count in done.lost.items():
        typer.secho(f"not kept: {count} x {what}", fg="yellow", err=True)


@data_app.command("fit-proposals")
def fit_proposals(
    annotations: Annotated[Path, typer.Argument(help="COCO, COCO-WholeBody or Halpe file.")],
    out: Out = Path("proposals.json"),
    images: Annotated[str, typer.Option(help="Folder of the pictures; default: images/.")] = "",
    layout: Annotated[str, typer.Option(help="coco, coco_wholebody or halpe.")] = "coco",
    boxes: Annotated[
        str, typer.Option(help="A model's name or file, or a .json of boxes; default: the shipped.")
    ] = "",
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")] = 0.1,
    components: Annotated[int, typer.Option(min=1, help="Gaussians per axis and part.")] = 3,
    limit: Annotated[int, typer.Option(min=0, help="Only the first pictures; 0: all.")] = 0,
    seed: int = 0,
    overwrite: Overwrite = False,
) -> None:
    """Fit how a detector's boxes lie about people and their parts, for training top-down models.

    Example: humanquery data fit-proposals people/train.json --out proposals.json
    """
    from humanquery.media.output_names import output_file

    out = output_file(out, "data fit-proposals", [annotations], overwrite=overwrite)
    import numpy as np

    from humanquery.commands.fit_proposals import fit, looked_at, matched
    from humanquery.data.readers.persons import PersonsConfig, PersonSource, checked_layout
    from humanquery.predict.whole_body import finder_of

    source = PersonSource(PersonsConfig(str(annotations), images, checked_layout(layout)))
    finder = finder_of(boxes or None, "auto")
    pairs = matched(looked_at(source, finder, score, limit))
    model, left_out = fit(pairs, np.random.default_rng(seed), components)
    model.save(out)
    for part in model.parts:
        typer.echo(f"{part}: {len(pairs[part][0])} people")
    if left_out:
        typer.echo(f"too few people, left out: {', '.join(left_out)}")
    typer.echo(out)
