"""Worker: command lines through SGLang's own parser. Runs in vLLM's environment, with SGLang's modules beside it."""

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from typing import Any

#: Imported by SGLang's utilities, of no use to its parser, and not part of torch for CPUs.
INERT = "triton"


class InertModule(types.ModuleType):
    """A module whose names are all there and do nothing."""

    __path__: list[str] = []  # noqa: RUF012 - as a package has it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return InertModule(f"{self.__name__}.{name}")


class InertFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `INERT` and whatever is below it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".", maxsplit=1)[0] != INERT:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return InertModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def run(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    """What the parser makes of each of `commands`; `beside` is the folder of SGLang's modules."""
    if importlib.util.find_spec(INERT) is None:
        sys.meta_path.append(InertFinder())
    sys.path.append(request["beside"])
    server_args: Any = importlib.import_module("sglang.srt.server_args")
    parser = argparse.ArgumentParser()
    server_args.ServerArgs.add_cli_args(parser)
    return {"parsed": [as_json(parse(parser, command)) for command in request["commands"]]}


def parse(parser: argparse.ArgumentParser, command: list[str]) -> dict[str, Any]:
    """The namespace as a dictionary; raises ValueError where the parser refuses."""
    try:
        return vars(parser.parse_args(command))
    except SystemExit as refused:
        raise ValueError(f"refused: {command}") from refused


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The values JSON has, others as text."""
    converted: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return converted
