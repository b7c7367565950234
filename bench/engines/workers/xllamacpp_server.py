"""Serve a GGUF with the portable xllamacpp wheel. Runs inside the `xllamacpp` toolchain, never in the harness.

`python -I xllamacpp_server.py '{"model": …, "port": …}'`; the API key comes from XLLAMACPP_API_KEY.
"""

import json
import os
import signal
import sys
from typing import Any


def parameters(settings: dict[str, Any]) -> Any:
    """xllamacpp's CommonParams for our settings."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.model_alias = {settings["alias"]}
    params.hostnames = [settings["host"]]
    params.port = settings["port"]
    params.n_ctx = settings["n_ctx"]
    params.n_parallel = settings["n_parallel"]
    params.n_threads_http = settings["n_threads_http"]
    params.n_gpu_layers = settings["n_gpu_layers"]
    params.verbosity = 4  # from here on the log says how large each buffer is, and on which device
    params.cache_ram_mib = settings["cache_ram_mib"]
    params.cont_batching = True
    params.endpoint_metrics = True
    params.ui = False
    params.api_keys = [os.environ.pop("XLLAMACPP_API_KEY")]
    if settings["n_threads"] is not None:
        params.cpuparams.n_threads = settings["n_threads"]
        params.cpuparams_batch.n_threads = settings["n_threads"]
    return params


def main() -> None:
    """Start the server and wait for SIGTERM."""
    import xllamacpp

    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = xllamacpp.Server(parameters(json.loads(sys.argv[1])))
    print(f"listening at {server.listening_address}", flush=True)  # noqa: T201 - goes to the engine's log
    signal.sigwait(signals)
    # The native threads do not end on their own; everything worth keeping is on the client's side.
    os._exit(0)


if __name__ == "__main__":
    main()
