"""Compiling the CPU kernels, once per instruction set; the standard library alone, so that the
wheel's build can use it."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = [FOLDER / name for name in ("deformable.c", "masks.c")]
HEADERS = [FOLDER / "threads.h"]
FLAGS = [
    "-std=c11",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
LEVELS = {
    "AVX512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
    "AVX2": ["-mavx2", "-mfma"],
    "DEFAULT": [],
}
"""Instruction sets of x86-64 by the names of `torch.backends.cpu.get_cpu_capability`; other
processors have only the last."""


def level(capability: str) -> str:
    """The name in `LEVELS` for what torch says the processor can do."""
    return capability if capability in LEVELS and _is_x86() else "DEFAULT"


def levels() -> list[str]:
    """All that can be compiled here."""
    return list(LEVELS) if _is_x86() else ["DEFAULT"]


def file_name(level: str) -> str:
    """Library of the package or of the cache; its name changes with the sources, the flags and the
    processor's family."""
    settings = [*FLAGS, *LEVELS[level], platform.system(), platform.machine()]
    text = (
        b"".join(path.read_bytes() for path in [*SOURCES, *HEADERS]) + " ".join(settings).encode()
    )
    return f"kernels-{level.lower()}-{hashlib.sha256(text).hexdigest()[:16]}.so"


def cache_folder() -> Path:
    """Where libraries that are compiled at their first use are kept: XDG_CACHE_HOME, else `.cache`
    in the user's home. OSError where there is neither."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "humanquery"
    try:
        home = Path.home()
    except RuntimeError as error:
        # no HOME and a user id without a passwd entry, as in many containers; OSError is what the
        # callers take for "no kernels here, compute without them"
        raise OSError(
            f"no home folder to keep the compiled kernels in ({error}); set XDG_CACHE_HOME"
        ) from error
    return home / ".cache" / "humanquery"


def compile_library(level: str, folder: Path) -> Path:
    """Compiles into `folder` (other processes see nothing or the whole file), or gives the file
    that is there.

    OSError where there is no compiler, it fails, or the folder cannot be written; the message says
    which.
    """
    path = folder / file_name(level)
    if path.exists():
        return path
    compiler = os.environ.get("CC") or next(
        (name for name in ("cc", "gcc", "clang") if shutil.which(name)), None
    )
    if compiler is None:
        raise OSError("no C compiler found (cc, gcc, clang, or the variable CC)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = Path(draft) / path.name
        command = [*compiler.split(), *FLAGS, *LEVELS[level], *map(str, SOURCES), "-o", str(made)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        except subprocess.CalledProcessError as error:
            raise OSError(f"{' '.join(command)} failed: {error.stderr.strip()[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{compiler} took more than {error.timeout:.0f} s") from error
        os.replace(made, path)
    return path


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
