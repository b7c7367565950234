"""Artefacts that are links to a source's files: nothing is copied, and a link that leads elsewhere is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantize.artefact import SKETCH_FILE, Artefact
from quantize.checkpoint import PICKLED

#: What a folder's links leave out beside hidden files: code, pickles, other formats, and names of the artefact's own.
_LEFT_OUT = (".py", ".gguf", ".onnx", ".h5", ".msgpack", *PICKLED)
_OWN = ("manifest.json", "acceptance.json", "quantize.log", SKETCH_FILE)


def folder_links(folder: Path) -> dict[str, Path]:
    """Name in the artefact → file of a Hugging Face folder."""
    return {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".") and file.suffix not in _LEFT_OUT and file.name not in _OWN
    }


def link(links: Mapping[str, Path], work: Path) -> None:
    """Make the links in `work`."""
    for name, target in links.items():
        (work / name).symlink_to(target.resolve())


def links_hold(artefact: Artefact, links: Mapping[str, Path]) -> bool:
    """Whether the artefact's files are these links, and each leads where it should."""
    listed = {str(file["path"]) for file in artefact.manifest["files"]}
    return listed == set(links) and all(
        (artefact.directory / name).exists() and (artefact.directory / name).resolve() == target.resolve()
        for name, target in links.items()
    )
