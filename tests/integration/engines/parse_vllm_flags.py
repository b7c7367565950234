"""Worker: command lines through the parser of `vllm serve`. Runs inside the `vllm` toolchain."""

import json
from typing import Any


def run(request: dict[str, Any], progress: Any) -> dict[str, Any]:
    """What the parser makes of each of `commands`, words after `vllm`."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(required=True, dest="subparser"))
    return {"parsed": [as_json(parse(parser, command)) for command in request["commands"]]}


def parse(parser: Any, command: list[str]) -> dict[str, Any]:
    """The namespace as a dictionary; raises ValueError where the parser refuses."""
    try:
        found: dict[str, Any] = vars(parser.parse_args(command))
    except SystemExit as refused:
        raise ValueError(f"refused: {command}") from refused
    return found


def as_json(values: dict[str, Any]) -> dict[str, Any]:
    """The values JSON has, others as text."""
    converted: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return converted
