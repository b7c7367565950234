"""The command line: argparse for commands and flags, Hydra's grammar for what follows them.

Exit codes: 0 complete (unsupported cells allowed), 1 something failed, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from bench._version import __version__
from bench.base.errors import QuantbenchError, UsageError, nearest

EXIT_INTERRUPTED = 130

#: What a disk or its rights can do to any command; whatever else the system refuses is a fault of ours, shown whole.
_OS_ERROR_EXIT_CODES = {errno.ENOSPC: 1, errno.EDQUOT: 1, errno.EACCES: 2, errno.EPERM: 2, errno.EROFS: 2}

_OVERRIDES = "config overrides, such as model=smollm2 scheme=gguf_q8_0 engine.threads=4"


class _Parser(argparse.ArgumentParser):
    """argparse's own errors in our form: one line, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = argparse.ArgumentParser(add_help=False)
    shown = common.add_argument_group("output")
    shown.add_argument("--quiet", action="store_true", help="print results and errors only")
    shown.add_argument("--json-lines", action="store_true", help="print progress and results as JSON lines on stdout")
    extended = common.add_argument_group("extension")
    extended.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="import a plugin module")
    extended.add_argument("--config-dir", type=Path, metavar="DIR", help="a folder searched beside the shipped conf/")

    parser: argparse.ArgumentParser = _Parser(
        prog="quantbench",
        allow_abbrev=False,
        description="Which quantization of this model, on which engine, on which hardware, "
        "at what quality, speed and cost?",
    )
    parser.add_argument("--version", action="version", version=f"quantbench {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help_text: str, *, overrides: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=help_text, parents=[common], allow_abbrev=False)
        if overrides:
            command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
        return command

    run = add("run", "quantize, accept, serve, load, evaluate, record and report every cell of an experiment")
    run.add_argument("-m", "--multirun", action="store_true", help="comma lists in overrides become a product")
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    quantize = add("quantize", "make and accept the variants, and stop there")
    quantize.add_argument("-m", "--multirun", action="store_true", help="comma lists in overrides become a product")
    quantize.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    fit = add("fit", "tell size and memory of the variants, and whether they fit the hardware; nothing is made")
    fit.add_argument("-m", "--multirun", action="store_true", help="comma lists in overrides become a product")
    serve = add("serve", "serve one variant until interrupted")
    serve.add_argument("--print", action="store_true", dest="print_only", help="print the command line and stop")
    serve.add_argument("--port", type=int, help="listen here instead of on a free port")
    for name, help_text in (
        ("load", "drive load against any OpenAI-compatible endpoint and record it"),
        ("search", "find the largest rate or concurrency at which an endpoint holds an objective"),
        ("calibrate", "measure the load generator's own error here, against a server whose times are known"),
    ):
        add(name, help_text)
    evaluate = add("evaluate", "measure the quality of the variants, without load")
    evaluate.add_argument("-m", "--multirun", action="store_true", help="comma lists in overrides become a product")
    evaluate.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    report = add("report", "write the report of recorded runs", overrides=False)
    report.add_argument("arguments", nargs="+", metavar="DIR|KEY=VALUE", help="run folders, then overrides (price=…)")
    report.add_argument("--out", type=Path, help="folder of the report (default: reports/<run>)")
    _add_deciding(add)
    status = add("status", "tell where a running or dead run is, and what the next one will reuse", overrides=False)
    status.add_argument("directory", type=Path, metavar="DIR", help="a run folder, such as results/quickstart")
    toolchain = add("toolchain", "list, install, verify, remove or locate the isolated environments", overrides=False)
    toolchain.add_argument("action", choices=["list", "install", "verify", "remove", "path"])
    toolchain.add_argument("name", nargs="?", help="a toolchain, such as llama_cpp")
    toolchain.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as toolchain.accelerator=cuda")
    engines = add("engines", "show which engine serves which format, or verify an engine for real", overrides=False)
    engines.add_argument("arguments", nargs="*", metavar="KIND|verify NAME", help="one engine; verify: see below")
    engines.add_argument("--accelerator", choices=["cpu", "cuda"], help="answer for this one instead of the machine's")
    engines.epilog = (
        "verify NAME [KEY=VALUE ...] makes, accepts, serves and loads the packaged model (or model=...) in every "
        "format that the table does not deny (or scheme=A,B) on engine NAME of conf/engine, such as vllm_gpu"
    )
    convert = add("convert-safetensors", "write a folder's pickled weights as safetensors, beside it", overrides=False)
    convert.add_argument("folder", type=Path, metavar="FOLDER", help="a Hugging Face folder with pytorch_model*.bin")
    convert.add_argument("--out", type=Path, metavar="FOLDER2", help="the new folder (default: FOLDER-safetensors)")
    add("doctor", "check this machine: compiler, disk, memory, GPU, toolchains", overrides=False)
    add("version", "print the version and where this copy comes from", overrides=False)
    return parser


def _add_deciding(add: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands that read recorded runs and decide."""
    recommend = add("recommend", "tell which variant to deploy, what it costs and loses, and why", overrides=False)
    recommend.add_argument(
        "arguments",
        nargs="*",
        metavar="DIR|KEY=VALUE",
        help="run folders, then what the report takes (price=…, slo.ttft_ms=…, priority=…); hardware=… model=… without"
        " runs tell what is usual there",
    )
    compare = add("compare", "set two runs side by side: better, worse, equivalent or inconclusive", overrides=False)
    compare.add_argument("arguments", nargs="+", metavar="A B|KEY=VALUE", help="two run folders, then overrides")
    compare.add_argument("--out", type=Path, help="folder for compare.md, compare.html and compare.csv")


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code. Errors raised on purpose become one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a label outside the terminal's encoding is no reason to stop
    try:
        arguments = _parse(argv)
        if arguments.config_dir is not None:
            os.environ["QUANTBENCH_CONFIG_DIR"] = str(arguments.config_dir)
        # A polite kill keeps what was measured, as Ctrl-C does.
        signal.signal(signal.SIGTERM, _interrupt)
        return _handler(arguments.command)(arguments)
    except KeyboardInterrupt:
        print(
            "quantbench: interrupted; what was measured is kept, the same command goes on from there", file=sys.stderr
        )
        return EXIT_INTERRUPTED
    except QuantbenchError as error:
        print(f"quantbench: {error}", file=sys.stderr)
        log_tail = getattr(error, "log_tail", "")
        if log_tail:
            print(_indented(log_tail), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`quantbench … | head`): nothing is wrong here.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        code = _OS_ERROR_EXIT_CODES.get(error.errno or 0)
        if code is None:
            raise
        print(f"quantbench: {_os_error_line(error)}", file=sys.stderr)
        return code


def console() -> NoReturn:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Overrides may stand before and after flags."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.argv = list(argv)
    flags = [word for word in rest if word.startswith("-")]
    if flags:
        known = [option for action in _actions(parser, arguments.command) for option in action.option_strings]
        if flags[0] in known:
            raise UsageError(f"{flags[0]} stands after the command: quantbench {arguments.command} {flags[0]}")
        raise UsageError(f"{arguments.command}: unknown option {flags[0]}; {nearest(flags[0], known)}")
    if rest:
        name = "overrides" if hasattr(arguments, "overrides") else "arguments"
        if not hasattr(arguments, name):
            raise UsageError(f"{arguments.command}: unexpected {rest[0]!r}; see quantbench {arguments.command} --help")
        getattr(arguments, name).extend(rest)
    for override in getattr(arguments, "overrides", []):
        if "=" not in override and not override.startswith("~"):
            raise UsageError(f"{arguments.command}: '{override}' is not KEY=VALUE")
    return arguments


def _actions(parser: argparse.ArgumentParser, command: str) -> list[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            chosen: argparse.ArgumentParser = action.choices[command]
            return chosen._actions
    return []


def _handler(command: str) -> Callable[[argparse.Namespace], int]:
    from bench.cli import calibrate, commands, compare, convert, decide, engines, fit, inspection, search

    handlers: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": commands.run,
        "quantize": commands.quantize,
        "fit": fit.fit,
        "serve": commands.serve,
        "load": commands.load,
        "search": search.search,
        "calibrate": calibrate.calibrate,
        "evaluate": commands.evaluate,
        "report": commands.report,
        "recommend": decide.recommend,
        "compare": compare.compare,
        "status": inspection.status,
        "toolchain": inspection.toolchain,
        "engines": engines.engines,
        "convert-safetensors": convert.convert_safetensors,
        "doctor": inspection.doctor,
        "version": inspection.version,
    }
    return handlers[command]


def _os_error_line(error: OSError) -> str:
    where = error.filename or "a file of the run"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk of {where}: free some, the same command goes on from what is recorded"
    return f"{where}: {(error.strerror or 'cannot be used').lower()}; choose another folder or change its permissions"


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
