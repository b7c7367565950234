"""Artefacts of links: what of a folder is linked, and when links still hold."""

from __future__ import annotations

from pathlib import Path

from quantize.artefact import Artefact
from quantize.links import folder_links, link, links_hold


def test_code_pickles_other_formats_and_own_names_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    kept = {"config.json", "model.safetensors", "tokenizer.model", "chat_template.jinja"}
    for name in (
        *kept,
        *("modeling.py", "pytorch_model.bin", "x.pt", "x.pkl", "x.gguf", "x.onnx", ".gitattributes"),
        *("manifest.json", "acceptance.json", "quantize.log"),
    ):
        (tmp_path / name).touch()
    assert set(folder_links(tmp_path)) == kept


def test_links_hold_while_each_leads_to_its_file_and_none_is_missing(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "made"
    for folder in (source, made):
        folder.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(name)
    link(folder_links(source), made)
    manifest = {"files": [{"path": "a"}, {"path": "b"}]}
    artefact = Artefact(key="k", directory=made, manifest=manifest)
    assert links_hold(artefact, folder_links(source))
    (source / "c").write_text("new")
    assert not links_hold(artefact, folder_links(source)), "a file was added"
    (source / "c").unlink()
    moved = source.rename(tmp_path / "moved")
    assert not links_hold(artefact, folder_links(moved)), "links that lead nowhere"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text("another")
    assert not links_hold(artefact, folder_links(moved)), "links that lead to another folder"
    assert links_hold(artefact, folder_links(source)), "content is in the key, not here"
