"""Run SGLang's own server with the arguments it is given. Runs where SGLang is installed, never in the harness.

SGLang takes its API key from the command line alone and writes it to its log; here it comes from SGLANG_API_KEY and is
left out of what is logged.
"""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def silent(told: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """`told`, which gives what is logged of the settings, without the key."""
    return lambda settings: {name: value for name, value in told(settings).items() if name != "api_key"}


def main() -> None:
    """Serve until SIGTERM, as `python -m sglang.launch_server` does it."""
    key = os.environ.pop("SGLANG_API_KEY")
    engine: Any = importlib.import_module("sglang.srt.entrypoints.engine")
    server_args: Any = importlib.import_module("sglang.srt.server_args")
    engine._server_args_for_logging = silent(engine._server_args_for_logging)
    importlib.import_module("sglang.srt.plugins").load_plugins()
    settings = server_args.prepare_server_args(sys.argv[1:])
    settings.api_key = key
    try:
        importlib.import_module("sglang.launch_server").run_server(settings)
    finally:
        importlib.import_module("sglang.srt.utils").kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
