"""The command line: arguments in, one call, a few lines out. Heavy imports wait inside the
commands."""

import difflib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from humanquery.cli_data import data_app
from humanquery.cli_options import Device, Out, Overwrite, Sets, Weights
from humanquery.cli_predict import predict, track
from humanquery.cli_serve import serve
from humanquery.cli_wholebody import fit_app, wholebody
from humanquery.core.errors import AnnotationError, HumanQueryError

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # PyTorch then asks Linux for large pages: 8 % of a photo's CPU time

app = typer.Typer(
    name="humanquery",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
bench_app = typer.Typer(help="Measure where the time goes.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(fit_app, name="fit")


@app.callback()
def imports(
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", help="Run this Python file first: a task of your own (repeatable)."
        ),
    ] = None,
) -> None:
    """Sees people: box, mask, keypoints, apparent gender and age of everybody in a photo, and who
    is who in a video. The shipped model joins three frozen networks (see `humanquery show`)."""
    from humanquery.core.code_files import import_file

    for file in files or ():
        import_file(file)


app.command()(predict)
app.command()(track)
app.command()(serve)
app.command()(wholebody)


@app.command()
def show(
    weights: Annotated[
        str, typer.Argument(help="A shipped name, a .safetensors file or a recipe.")
    ] = "",
    time: Annotated[
        bool, typer.Option("--time", help="Also measure what each task adds to one picture.")
    ] = False,
) -> None:
    """Print a model: tasks, parameters, input size, skeleton, data and licences.

    Example: humanquery show --time
    """
    from humanquery.commands.show import show as print_model

    print_model(weights, time=time)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of a table.")] = False,
) -> None:
    """List what can be loaded by name: size, outputs, scores, licence.

    Example: humanquery models
    """
    from humanquery.commands import models as listing

    found = listing.shipped_models()
    if as_json:
        typer.echo(listing.as_json(found))
    else:
        listing.print_models(found)


@app.command()
def doctor() -> None:
    """Say what is installed, which kernels and codecs are used, and what to do where one is
    missing. Exit code 1: something will fail.

    Example: humanquery doctor
    """
    from humanquery.commands.doctor import examine, print_findings

    findings = examine()
    print_findings(findings)
    raise typer.Exit(int(any(each.state == "problem" for each in findings)))


@app.command()
def attend(
    photo: Annotated[str, typer.Argument(help="A picture.")],
    out: Out = Path("attention.png"),
    weights: Weights = "",
    score: Annotated[float, typer.Option(min=0, max=1)] = 0.3,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Draw where the last decoder layer looks for each person.

    Example: humanquery attend photo.jpg --out attention.png
    """
    from humanquery.media.output_names import output_file
    from humanquery.predict.predict_folder import check_sources

    check_sources([photo])
    out = output_file(out, "attend", [photo], overwrite=overwrite)
    from humanquery.commands.show import attend as draw_attention

    count = draw_attention(photo, out, weights or None, score, device)
    typer.echo(f"{count} people; {out}")


@app.command()
def export(
    format: Annotated[str, typer.Option(help="onnx, openvino or torch.")] = "onnx",
    weights: Weights = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; default: the model's name.")
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Compare with the network; a file that differs is not left.")
    ] = True,
    photos: Annotated[
        Path | None, typer.Option(help="Pictures to compare on; default: real and generated ones.")
    ] = None,
    max_persons: Annotated[
        int | None, typer.Option(help="Most people of one picture; default: the model's number.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the network for another runtime, and prove that the file says the same.

    Example: humanquery export --format onnx --verify --out model.onnx
    """
    from humanquery.media.output_names import output_file
    from humanquery.predict.base import DEFAULT, find_weights
    from humanquery.predict.predict_folder import check_sources

    if photos is not None:
        check_sources([str(photos)])
    from humanquery.export import export as write
    from humanquery.export.write import written_files
    from humanquery.predict import load

    path = out or Path(Path(weights or DEFAULT).stem)
    for file in written_files(path, format):
        output_file(file, "export", [find_weights(weights or None)], overwrite=overwrite)
    report = lambda comparison: typer.echo(comparison.table())  # noqa: E731
    written = write(
        load(weights or None, "cpu"),
        path,
        format=format,
        verify=verify,
        photos=photos,
        max_persons=max_persons,
        on_comparison=report,
    )
    typer.echo(
        f"{written}: {written.stat().st_size / 1e6:.1f} "
        f"MB{', verified' if verify else ', not verified'}"
    )


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="The official .pth, or TinyPose's ncnn .bin.")],
    destination: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
    kind: Annotated[str, typer.Option(help="hqnet, alphapose or tinypose.")] = "hqnet",
    joints_by: Annotated[
        str,
        typer.Option(
            help="alphapose: how joints are read: heatmap, integral, combined; default: by their "
            "number."
        ),
    ] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Turn an official checkpoint (HQNet, AlphaPose, TinyPose) into a weights file of this library.

    Example: humanquery convert --kind alphapose fast_res50_256x192.pth fastpose.safetensors
    """
    from humanquery.media.output_names import output_file

    destination = output_file(destination, "convert", [source], overwrite=overwrite)
    from humanquery.commands.convert import convert as write

    for notice in write(source, destination, kind, joints_by):
        typer.echo(notice)
    typer.echo(f"wrote {destination}")


@app.command()
def train(
    recipe: Annotated[
        str, typer.Option(help="Its name (see `humanquery recipes`) or file.py:function.")
    ],
    out: Out,
    set: Sets = [],  # noqa: B006 (typer copies it)
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    weights: Annotated[
        str,
        typer.Option(
            help="Fine-tune: start from the tensors of this file, or shipped model, that fit."
        ),
    ] = "",
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Resume although recipe, data or weights differ; written down in the run.",
        ),
    ] = False,
) -> None:
    """Train a recipe; under torchrun on many GPUs.

    Example: humanquery train --recipe hqnet_tiny_scenes --out runs/tiny
    """
    from humanquery.commands.train import train as run

    result = run(
        recipe, set, out, resume=resume, allow_changes=allow_changes, weights=weights or None
    )
    typer.echo(f"{result.steps} steps, {result.seconds / 60:.1f} min; {result.weights}")


@app.command()
def finetune(
    data: Annotated[
        Path, typer.Option(help="COCO file of your people; with --protocol: a recipe's name.")
    ],
    out: Out,
    weights: Weights = "",
    protocol: Annotated[
        str,
        typer.Option(help="Of a PATH model: full, partial (last two blocks and head) or head."),
    ] = "",
    images: Annotated[
        Path | None, typer.Option(help="Its pictures; default: the folder images beside it.")
    ] = None,
    val: Annotated[
        Path | None, typer.Option(help="COCO file to score on after the last step.")
    ] = None,
    val_images: Annotated[
        Path | None, typer.Option(help="Its pictures; default: those of --images.")
    ] = None,
    skeleton: Annotated[
        str, typer.Option(help="Joints: a name or a small JSON; default: those of the file.")
    ] = "",
    task: Annotated[
        list[str] | None,
        typer.Option(help="Class of a task of your own to add; see --import. Repeatable."),
    ] = None,
    steps: Annotated[int, typer.Option(min=0)] = 300,
    set: Sets = [],  # noqa: B006
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes", help="Resume although data or weights differ; written down."
        ),
    ] = False,
) -> None:
    """Fine-tune a model on people of your own: boxes alone, masks, joints of any layout.

    Example: humanquery finetune --weights hqnet-small --data mine.json --out runs/mine
    """
    if protocol:
        _finetune_path(
            weights, str(data), protocol, out, steps, set, resume, allow_changes,
            {"images": images, "val": val, "skeleton": skeleton, "task": task},
        )  # fmt: skip
        return
    for path in (data, val):
        if path is not None and not path.is_file():
            raise AnnotationError(f"{path}: no such file; expected a COCO annotation file")
    from humanquery.commands.finetune import finetune as run

    result = run(
        weights or None,
        data,
        out,
        images=images,
        val=val,
        val_images=val_images,
        skeleton=skeleton,
        tasks=task or (),
        steps=steps,
        overrides=set,
        resume=resume,
        allow_changes=allow_changes,
    )
    typer.echo(f"{result.steps} steps, {result.seconds / 60:.1f} min; {result.weights}")


def _finetune_path(weights, recipe, protocol, out, steps, set, resume, allow_changes, unused):
    from humanquery.commands.finetune import finetune_path

    given = [f"--{name}" for name, value in unused.items() if value]
    if given or not weights:
        wrong = f"does not use {', '.join(given)}" if given else "needs --weights of a PATH model"
        raise typer.BadParameter(f"--protocol {wrong}; --data names a recipe, such as path_reid")
    result = finetune_path(
        weights, recipe, protocol, out,
        steps=steps, overrides=set, resume=resume, allow_changes=allow_changes,
    )  # fmt: skip
    for name, value in result.evaluation.items():
        typer.echo(f"{name} {value if value is None else format(value, '.4g')}")
    typer.echo(f"{result.steps} steps, {result.seconds / 60:.1f} min; {result.weights}")


@app.command()
def evaluate(
    weights: Weights = "",
    data: Annotated[
        Path | None, typer.Option(help="COCO-like annotation file with the truth.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Its pictures; default: the folder images beside it.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Score on this recipe's evaluation part instead.")
    ] = "",
    results: Annotated[
        Path | None, typer.Option(help="Score a COCO results file instead of a model.")
    ] = None,
    set: Sets = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the report as JSON.")
    ] = None,
    device: Device = "auto",
    limit: Annotated[int, typer.Option(help="Only the first pictures; 0: all.")] = 0,
    task: Annotated[
        str,
        typer.Option(
            help="people, results (of --results), crowdpose (of --results, by how crowded pictures "
            "are), or tracking: --data is then a folder of clips in MOT layout."
        ),
    ] = "people",
    rules: Annotated[str, typer.Option(help="Of tracking: mot or posetrack21.")] = "mot",
    motion_only: Annotated[
        bool, typer.Option("--motion-only", help="Of tracking: do not compare human queries.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Score a model: AP of boxes, masks, keypoints, apparent gender and age; or MOTA, IDF1 and HOTA
    of tracking.

    Example: humanquery evaluate --data people/val.json --out report.json
    """
    if out is not None:
        from humanquery.media.output_names import output_file

        inputs = [path for path in (data, results) if path is not None]
        out = output_file(out, "evaluate", inputs, overwrite=overwrite)
    if data is not None and not data.exists():
        raise AnnotationError(f"{data}: no such file or folder; check the path of --data")
    from humanquery.commands.evaluate import evaluate as run
    from humanquery.commands.evaluate import mode_of, refuse_unused

    mode = mode_of(task, results is not None)
    given = {"weights": weights, "images": images, "recipe": recipe, "set": set, "limit": limit}
    given |= {"device": device != "auto", "rules": rules != "mot", "motion-only": motion_only}
    refuse_unused(mode, given)
    if mode.endswith("tracking"):
        report = _evaluate_tracking(data, results, weights, device, rules, motion_only)
    elif mode.startswith("results"):
        from humanquery.evaluation.crowd_pose import evaluate_crowd_pose
        from humanquery.evaluation.result_files import evaluate_files

        if data is None or results is None:
            raise typer.BadParameter(
                "scoring results needs both --results FILE and the truth, --data annotations.json"
            )
        if mode == "results":
            report = evaluate_files(data, results, limit=limit)
        else:
            report = evaluate_crowd_pose(data, results)
    else:
        report = run(
            weights or None,
            annotations=data,
            images=images,
            recipe=recipe or None,
            overrides=set,
            device=device,
            limit=limit,
        )
    typer.echo(report.table())
    if out is not None:
        report.save(out)


def _evaluate_tracking(
    data: Path | None,
    results: Path | None,
    weights: str,
    device: str,
    rules: str,
    motion_only: bool,
):
    from humanquery.commands.evaluate_tracks import evaluate_tracks
    from humanquery.predict import load
    from humanquery.predict.track_video import track_config

    if data is None:
        raise typer.BadParameter(
            "--task tracking needs --data: a clip in MOT layout, or a folder of them"
        )
    if results is not None:
        return evaluate_tracks(data, results, rules=rules)
    predictor = load(weights or None, device)
    config = track_config(predictor, **({"appearance": False} if motion_only else {}))
    return evaluate_tracks(data, predictor=predictor, config=config, rules=rules)


@app.command()
def ship(
    weights: Annotated[Path, typer.Argument(help="model.safetensors of a training run.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
    name: Annotated[
        str, typer.Option(help="What the model is called; default: the file's name.")
    ] = "",
    score_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Default threshold of predict; default: of best F1."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a trained model half as large and fit to hand on: with its name, threshold and scores in
    the file.

    Example: humanquery ship runs/small/model.safetensors hqnet-small.safetensors
    """
    from humanquery.media.output_names import output_file

    out = output_file(out, "ship", [weights], overwrite=overwrite)
    from humanquery.commands.ship import ship as write

    card = write(weights, out, name=name, score_threshold=score_threshold)
    typer.echo(
        f"{card['name']}: {out}, {out.stat().st_size / 1e6:.1f} MB, threshold "
        f"{card.get('score_threshold', 'none')}"
    )


@app.command()
def recipes() -> None:
    """List the recipes.

    Example: humanquery recipes
    """
    from humanquery.recipes import RECIPES

    for name, recipe in RECIPES.items():
        typer.echo(f"{name:20} {(recipe.__doc__ or '').splitlines()[0]}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs.")],
    out: Out = Path("curves.png"),
    score: Annotated[
        list[str],
        typer.Option("--score", help="A number to draw, e.g. box/ap50; default: the main ones."),
    ] = [],  # noqa: B006
    overwrite: Overwrite = False,
) -> None:
    """Draw learning curves of training runs.

    Example: humanquery report runs/a runs/b --out curves.png
    """
    from humanquery.media.output_names import output_file

    inputs = [file for run in runs for file in (run, run / "metrics.jsonl")]
    out = output_file(out, "report", inputs, overwrite=overwrite)
    from humanquery.engine.curves import plot_runs, summarise
    from humanquery.evaluation.people_report import MAIN_NUMBERS

    for run in runs:
        typer.echo(summarise(run))
    plot_runs(runs, out, scores=score, preferred=MAIN_NUMBERS)
    typer.echo(f"curves: {out}")


@app.command()
def demo(out: Out = Path("demo_out"), overwrite: Overwrite = False) -> None:
    """Look at a real photo and at a generated crowd, and say what was found.

    Example: humanquery demo
    """
    from humanquery.media.output_names import OutputFolder

    folder = OutputFolder(out, "demo", overwrite=overwrite)
    from humanquery.commands.demo import FILES, run

    for name in FILES:
        folder.fixed(name)
    run(out)


@app.command()
def version() -> None:
    """Print the version."""
    from humanquery import __version__

    typer.echo(__version__)


@bench_app.command("train")
def bench_train(
    recipe: Annotated[
        str, typer.Option(help="Its name (see `humanquery recipes`) or file.py:function.")
    ],
    steps: Annotated[int, typer.Option(min=1)] = 10,
    set: Sets = [],  # noqa: B006
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the numbers as JSON.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print where the time of a training step goes: data, trunk, matching, losses by task,
    backward, optimizer.

    Example: humanquery bench train --recipe hqnet_tiny_scenes --steps 10
    """
    if out is not None:
        from humanquery.media.output_names import output_file

        out = output_file(out, "bench", overwrite=overwrite)
    from humanquery.commands.bench import bench_train as measure

    found = measure(recipe, set, steps)
    typer.echo(found.table())
    if out is not None:
        out.write_text(json.dumps(found.plain(), indent=1) + "\n")


def main() -> None:
    """Entry point: errors for people become one message and exit code 2."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    _offer_nearest_verb(arguments)
    try:
        app(arguments)
    except HumanQueryError as problem:
        if debug:
            raise
        typer.secho(f"error: {problem}", fg="red", err=True)
        sys.exit(2)


def _offer_nearest_verb(arguments: list[str]) -> None:
    known = [command.name or command.callback.__name__ for command in app.registered_commands] + [
        "data",
        "bench",
        "fit",
    ]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        close = difflib.get_close_matches(arguments[0], known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        typer.secho(
            f"error: no verb {arguments[0]!r}.{hint} Known: {', '.join(sorted(known))}",
            fg="red",
            err=True,
        )
        sys.exit(2)
