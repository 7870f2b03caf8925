"""Models as repositories of the Hugging Face Hub: weights, config and a card that people read."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError

from humanquery import __version__
from humanquery.core.errors import CheckpointError, ConfigError
from humanquery.engine.checkpoint import read_card
from humanquery.media.output_names import OutputFolder
from humanquery.predict.base import EXPORTED, VARIANTS, BasePredictor, find_weights
from humanquery.predict.loading import load

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FILES = (WEIGHTS, CONFIG, CARD)


def save_pretrained(
    name_or_path: str | Path | None, folder: str | Path, *, overwrite: bool = False
) -> list[Path]:
    """Writes a model as a repository: the weights file bit for bit (`model.safetensors`, from
    which alone it can be rebuilt), its config (`config.json`) and its card (`README.md`); gives
    their paths.

    CheckpointError where there is no such model, ConfigError for an exported file, for a name
    that is more than its weights, and where a file of the user would be replaced.
    """
    if str(name_or_path) in VARIANTS:
        raise ConfigError(
            f"{name_or_path}: is {VARIANTS[str(name_or_path)][0]} with other settings, which no "
            "weights file holds; save that one"
        )
    path = find_weights(name_or_path)
    if path.suffix in EXPORTED:
        raise ConfigError(f"{path}: an exported file; give the weights that it was made from")
    config, card = read_card(path)
    output = OutputFolder(folder, "save_pretrained", [path], overwrite=overwrite)
    weights, config_file, card_file = (output.fixed(name) for name in FILES)
    shutil.copyfile(path, weights)
    content = {"library_name": "humanquery", "humanquery_version": __version__, "config": config}
    config_file.write_text(json.dumps(content, indent=1) + "\n")
    card_file.write_text(card_text(card.get("name") or path.stem, card))
    return [weights, config_file, card_file]


def card_text(name: str, card: dict[str, Any]) -> str:
    """The README of a repository: what the model's own card says, with the hub's metadata."""
    head = {
        "library_name": "humanquery",
        "pipeline_tag": "keypoint-detection",
        "tags": ["humanquery", "person-detection", "instance-segmentation", "pose-estimation"],
        "license": "other",  # of weights and data each its own, told below
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False).rstrip(), "---", "", f"# {name}", ""]
    lines += ["```python", "from humanquery import from_pretrained", ""]
    lines += ['people = from_pretrained("OWNER/NAME").predict("photo.jpg")', "```", ""]
    for key in ("intended_use", "data", "licences", "scores", "score_threshold"):
        value = card.get(key)
        if isinstance(value, dict):
            lines += [f"## {key.replace('_', ' ').capitalize()}", ""]
            lines += [f"* {part}: {what}" for part, what in value.items()] + [""]
        elif value is not None:
            lines += [f"## {key.replace('_', ' ').capitalize()}", "", str(value), ""]
    lines += [
        "Gender and age are apparent: what annotators guessed from pictures, no facts about "
        "anybody.",
        "",
    ]
    return "\n".join(lines)


def from_pretrained(
    folder_or_repository: str | Path, *, revision: str | None = None, device: str = "auto"
) -> BasePredictor:
    """What `load` gives, from a folder that `save_pretrained` wrote or a repository of the hub
    ("owner/name"; `revision`: branch, tag or commit). Only the weights file is fetched, and no
    code of the repository is run. CheckpointError where there is none."""
    folder = Path(folder_or_repository)
    if folder.is_dir():
        return load(folder / WEIGHTS, device)
    try:
        path = huggingface_hub.hf_hub_download(
            str(folder_or_repository), WEIGHTS, revision=revision, library_name="humanquery"
        )
    except (HfHubHTTPError, OSError, ValueError) as problem:
        raise CheckpointError(
            f"{folder_or_repository}: neither a folder nor a repository that can be fetched "
            f"({str(problem).splitlines()[0] if str(problem) else type(problem).__name__}); check "
            f"the name, the network, and `hf auth login` for a private one; it must hold {WEIGHTS}"
        ) from problem
    return load(path, device)


def push_to_hub(
    name_or_path: str | Path | None,
    repository: str,
    *,
    private: bool = True,
    message: str = "",
    token: str | None = None,
) -> str:
    """Uploads what `save_pretrained` writes to a repository ("owner/name"), which is made where it
    is not there, and gives the address of the commit. Private unless told otherwise. `token`: the
    one of `hf auth login` by default. CheckpointError where the hub refuses."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(name_or_path, folder)
        api = huggingface_hub.HfApi(token=token)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=message or f"Upload with humanquery {__version__}",
                allow_patterns=list(FILES),  # not the marker of OutputFolder
            )
        except (HfHubHTTPError, OSError, ValueError) as problem:
            raise CheckpointError(
                f"{repository}: the hub did not take it ({str(problem).splitlines()[0]}); check "
                "the name and `hf auth login` with a token that may write"
            ) from problem
    return str(done.commit_url)
