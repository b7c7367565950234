"""`quantbench convert-safetensors`: pickled weights as safetensors."""

from __future__ import annotations

import argparse

from bench.cli.show import Display


def convert_safetensors(arguments: argparse.Namespace) -> int:
    """`quantbench convert-safetensors FOLDER [--out FOLDER2]`: 0 once the new folder is there and was verified."""
    from bench.base.compose import load_plugins
    from bench.pipeline.schemas import register_all
    from quantize.convert_safetensors import convert

    register_all()
    load_plugins(arguments.plugin)
    display = Display(quiet=arguments.quiet, json_lines=arguments.json_lines)
    made = convert(arguments.folder, arguments.out, progress=display.progress())
    for note in made.notes:
        display.result(f"note: {note}", note=note)
    count = f"{len(made.files)} file{'s' if len(made.files) > 1 else ''}"
    display.result(
        f"{made.tensors} tensors in {count} ({made.size_bytes / 1e6:.1f} MB), read back and equal: "
        f"model=local model.path={made.folder}",
        folder=str(made.folder),
        tensors=made.tensors,
        files=list(made.files),
        size_bytes=made.size_bytes,
    )
    return 0
