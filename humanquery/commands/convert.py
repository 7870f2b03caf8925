"""Other people's checkpoints as ours."""

from pathlib import Path

from humanquery.core.errors import ConfigError, nearest

KINDS = ("hqnet", "alphapose", "tinypose")


def convert(source: Path, destination: Path, kind: str, joints_by: str = "auto") -> list[str]:
    """Writes `destination`; returns notices. An unknown kind, or `joints_by` for another than
    AlphaPose's, raises ConfigError, a file of another kind CheckpointError."""
    if kind not in KINDS:
        raise ConfigError(f"--kind {kind}: unknown.{nearest(kind, KINDS)}")
    if kind == "alphapose":
        from humanquery.models.topdown.convert import convert_file as from_alphapose

        return from_alphapose(source, destination, joints_by)
    if joints_by != "auto":
        raise ConfigError(f"--joints-by {joints_by}: is for --kind alphapose, this is {kind}")
    if kind == "tinypose":
        from humanquery.models.topdown.tinypose import convert_file as from_tinypose

        return from_tinypose(source, destination)
    from humanquery.models.hqnet.convert import convert_file as from_hqnet

    return from_hqnet(source, destination)
