"""Run `python -m llama_cpp.server` with the arguments it is given. Runs inside the `llama_cpp_python` toolchain.

Only one thing differs: the server refuses every request whose X-Request-Id is not a UUID, and ours names a request by
scenario and number, so that the engine's log can be read beside what was recorded.
"""

import functools
import importlib
from typing import Any


def main() -> None:
    """Serve until SIGTERM."""
    server = importlib.import_module("llama_cpp.server.__main__")
    app: Any = importlib.import_module("llama_cpp.server.app")
    app.RequestIdPlugin = functools.partial(app.RequestIdPlugin, validate=False)
    server.main()


if __name__ == "__main__":
    main()
