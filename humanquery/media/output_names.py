"""Where a verb may write: the one place that decides the names of outputs.

1. An output is never the same file as an input: not by its path (links resolved, upper and lower
   case taken as one), and not as another hard link. No option changes that.
2. A file that we did not write is never replaced, unless `overwrite` (`--overwrite`) asks for it.
   A name that follows from a picture's or video's name gets a number (`photo_2.json`); a fixed name
   (`coco_results.json`, `tracked.mp4`) and a name that the user gave are refused.
3. What we wrote is listed in `.humanquery.jsonl` beside it, with version and verb. The same verb
   may write it again, another verb may not; and no verb reads it as a source from a folder or glob.

An entry is written before its file: a run that is killed leaves no result that looks like a photo
of the user.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from humanquery.core.errors import ConfigError

MARKER = ".humanquery.jsonl"
"""one line per file of ours: {"humanquery": version, "verb": ..., "file": name in this folder}"""


def read_marker(folder: str | Path) -> dict[str, str]:
    """Names in `folder` that humanquery wrote, each with its verb; {} without a marker.

    A line that is no entry (cut off by a crash, say) owns nothing.
    """
    try:
        text = (Path(folder) / MARKER).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    owners: dict[str, str] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            owners[str(entry["file"])] = str(entry["verb"])
        except (ValueError, TypeError, KeyError):
            continue
    return owners


class OwnResults:
    """Tells results of humanquery from files of the user; each folder's marker is read once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, str]] = {}

    def __contains__(self, path: Path) -> bool:
        return any(self._listed(step) for step in (path, *path.parents))

    def _listed(self, path: Path) -> bool:
        folder = path.parent
        if folder not in self._folders:
            self._folders[folder] = read_marker(folder)
        return path.name in self._folders[folder]


class OutputFolder:
    """The names of what `verb` writes into `folder`, by the rules of this file.

    `inputs` are files that must stay as they are. Nothing is made on disk before the first name is
    given out.
    """

    def __init__(
        self,
        folder: str | Path,
        verb: str,
        inputs: Iterable[str | Path] = (),
        *,
        overwrite: bool = False,
        reserved: Iterable[str] = (),
    ):
        self.folder, self.verb, self.overwrite = Path(folder), verb, overwrite
        self._inputs = _Files(inputs)
        self._reserved = {name.casefold() for name in (MARKER, *reserved)}
        """names that no picture may get"""
        self._given: set[str] = set()
        self._owners = read_marker(self.folder)
        for step in (self.folder, *self.folder.parents):
            if step.exists():
                if not step.is_dir():
                    raise ConfigError(f"{self.folder}: {step} is a file; expected a folder")
                break

    def fixed(self, name: str) -> Path:
        """The path of a file (or folder) that always has this name; ConfigError if it would
        replace an input or a file that `verb` did not write."""
        path = self.folder / name
        if path in self._inputs:
            raise ConfigError(
                f"{path}: is an input of this run, and would be replaced by its result; write to "
                "another place with --out"
            )
        if os.path.lexists(path) and not self._may_replace(name):
            owner = self._owners.get(name)
            whose = f"was written by `humanquery {owner}`" if owner else "is not ours"
            raise ConfigError(
                f"{path}: exists and {whose}; write to another place with --out, or replace it "
                "with --overwrite"
            )
        return self._claim(name)

    def numbered(self, stem: str, suffixes: tuple[str, ...]) -> Path:
        """A path without suffix, named `stem` or `stem_2`, `stem_3` ..., so that it is free with
        each of the `suffixes`."""
        name, count = stem, 2
        while not all(self._is_free(name + suffix) for suffix in suffixes):
            name, count = f"{stem}_{count}", count + 1
        for suffix in suffixes:
            self._claim(name + suffix)
        return self.folder / name

    def _is_free(self, name: str) -> bool:
        if name.casefold() in self._given | self._reserved or self.folder / name in self._inputs:
            return False
        return not os.path.lexists(self.folder / name) or self._may_replace(name)

    def _may_replace(self, name: str) -> bool:
        if (self.folder / name).is_dir():  # its own marker guards what is in it
            return self._owners.get(name) == self.verb
        return self.overwrite or self._owners.get(name) == self.verb

    def _claim(self, name: str) -> Path:
        self._given.add(name.casefold())
        if self._owners.get(name) != self.verb:
            self._owners[name] = self.verb
            self._record(name)
        return self.folder / name

    def _record(self, name: str) -> None:
        from humanquery import __version__

        entry = {"humanquery": __version__, "verb": self.verb, "file": name}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / MARKER, "a+b") as file:
                # a line that a crash cut off must not swallow this one
                file.seek(max(file.seek(0, os.SEEK_END) - 1, 0))
                begin = b"\n" if file.read(1) not in (b"", b"\n") else b""
                file.write(begin + json.dumps(entry).encode() + b"\n")
        except OSError as problem:
            raise ConfigError(
                f"{self.folder}: nothing can be written there ({problem.strerror}); choose another "
                "place with --out"
            ) from problem


def output_file(
    path: str | Path, verb: str, inputs: Iterable[str | Path] = (), *, overwrite: bool = False
) -> Path:
    """The path of one file that the user named, or ConfigError; see `OutputFolder.fixed`."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; expected the name of a file to write")
    return OutputFolder(path.parent, verb, inputs, overwrite=overwrite).fixed(path.name)


class _Files:
    """A set of files that knows one under each of its names."""

    def __init__(self, paths: Iterable[str | Path]):
        self._paths: set[str] = set()
        self._numbers: set[tuple[int, int]] = set()
        for path in paths:
            self._paths.add(_plain(path))
            self._numbers |= _number(path)

    def __contains__(self, path: str | Path) -> bool:
        return _plain(path) in self._paths or not self._numbers.isdisjoint(_number(path))


def _plain(path: str | Path) -> str:
    # casefold: where the file system ignores case, A.JPG and a.jpg are one file
    return os.path.realpath(os.path.expanduser(str(path).removeprefix("file://"))).casefold()


def _number(path: str | Path) -> set[tuple[int, int]]:
    """Device and inode, which all hard links of a file share; empty where there is no such file."""
    try:
        found = os.stat(os.path.expanduser(str(path).removeprefix("file://")))
    except (OSError, ValueError):
        return set()
    return {(found.st_dev, found.st_ino)}
