"""Composing configs with Hydra, and turning its errors into one line that says what is wrong and what is allowed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from bench.base.errors import QuantbenchError, UsageError, nearest
from bench.base.schema import registered, registered_groups, store_all
from bench.base.sweep import SharedComposes

T = TypeVar("T")

#: Defaults of `kind` that name no class: a base's, and a value that must be given.
_OPEN_KINDS = ("?", "???", dataclasses.MISSING)

PLUGIN_GROUP = "quantbench.plugins"


def conf_dir() -> Path:
    """The shipped configuration: inside the wheel, or the checkout's own folder in an editable install."""
    packaged = Path(__file__).resolve().parents[1] / "_conf"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def load_plugins(modules: Iterable[str] = ()) -> None:
    """Import third-party plugin modules: entry points of `quantbench.plugins`, then those named by the user.

    Raises UsageError when one cannot be imported.
    """
    for entry_point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        entry_point.load()
    for module in modules:
        try:
            importlib.import_module(module)
        except (ImportError, TypeError, ValueError) as error:
            raise UsageError(f"--plugin {module}: cannot be imported ({error})") from error


def compose(
    root: str,
    overrides: Sequence[str],
    cls: type[T],
    *,
    config_dir: Path | None = None,
    shared: SharedComposes | None = None,
) -> T:
    """Compose root config `root` (a YAML in `conf/`) with `overrides` into a frozen `cls`.

    Composes of one root that are given the same `shared` do their common part once. Raises UsageError that names the
    wrong key or value, what is allowed and the nearest match.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    parsed = parse_overrides(overrides)
    store_all()
    with _hydra(config_dir) as hydra_compose:
        try:
            if shared is None:
                config = hydra_compose(root, list(overrides))
            else:
                ask = functools.partial(hydra_compose, root)
                config = shared.compose(ask, overrides, parsed, _groups(config_dir))
            missing = OmegaConf.missing_keys(config)
            if missing:
                raise UsageError(_missing_line(sorted(missing)))
            value = OmegaConf.to_object(config)
        except QuantbenchError:
            raise
        except (HydraException, OmegaConfBaseException, MissingMandatoryValue) as error:
            raise UsageError(explain(error)) from error
        except ValueError as error:
            raise UsageError(str(error)) from error
        except AssertionError as error:  # OmegaConf's, of a key below one that is null
            line = _unset_line(root, parsed)
            if not line:
                raise
            raise UsageError(line) from error
        except AttributeError as error:  # a `+key` that the frozen dataclass does not have
            raise UsageError(f"unknown key in the overrides: {error}; drop the '+' to see what is allowed") from error
    _refuse_odd_values(value, "")
    if not isinstance(value, cls):
        raise UsageError(f"{root} composed to {type(value).__name__}, not {cls.__name__}")
    return value


def _refuse_odd_values(value: Any, where: str) -> None:
    """Raise UsageError for numbers that are not finite, and for a `kind` that is not its class's own."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {value} is not a finite number")
    if isinstance(value, dict):
        for key, entry in value.items():
            _refuse_odd_values(entry, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _refuse_odd_values(entry, f"{where}[{index}]")
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            entry, name = getattr(value, field.name), f"{where}.{field.name}".lstrip(".")
            if field.name == "kind" and field.default not in _OPEN_KINDS and entry != field.default:
                group = where.split(".", maxsplit=1)[0]
                raise UsageError(f"{name} cannot be set: choose another with {group}=NAME")
            _refuse_odd_values(entry, name)


def options(group: str, *, config_dir: Path | None = None) -> list[str]:
    """The choices of a config group, without the schemas behind them."""
    store_all()
    with _hydra(config_dir):
        from hydra.core.global_hydra import GlobalHydra

        loader = GlobalHydra.instance().config_loader()
        return [name for name in loader.get_group_options(group) if not name.startswith("base_")]


def parse_overrides(overrides: Sequence[str]) -> list[Any]:
    """Parse override strings with Hydra's grammar; raises UsageError quoting the one that is malformed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            detail = str(error).splitlines()
            reason = detail[1].strip() if len(detail) > 1 else str(error)
            raise UsageError(f"cannot read the override '{text}' ({reason[:120]}); write key=value") from error
    return parsed


@contextlib.contextmanager
def _hydra(config_dir: Path | None) -> Iterator[Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    extra = config_dir or _config_dir_from_env()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = [] if extra is None else [f"hydra.searchpath=[{_quoted(extra)}]"]
        yield lambda root, overrides: hydra_compose(root, [*search, *overrides])


def _config_dir_from_env() -> Path | None:
    value = os.environ.get("QUANTBENCH_CONFIG_DIR")
    if not value:
        return None
    directory = Path(value).resolve()
    if not directory.is_dir():
        raise UsageError(f"the configuration folder {directory} does not exist; see --config-dir")
    return directory


def _quoted(path: Path) -> str:
    escaped = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'file://{escaped}'"


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's errors as one line: the key, the value, what is allowed, the nearest match."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    if isinstance(error, MissingConfigException):
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = [option for option in (error.options or []) if not option.startswith("base_")]
        return f"{group or 'config'} '{name}' is unknown; {nearest(name, known)}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError):
        return _unknown_key(cause)
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or "?"
        return f"{key}: {_enum_hint((cause.msg or str(cause)).splitlines()[0])}"
    text = str(error)
    unused = "Could not override '"
    if text.startswith(unused):
        name = text.removeprefix(unused).partition("'")[0].partition("@")[0]
        return f"'{name}' is not a config group; {nearest(name, group_names())}"
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _groups(config_dir: Path | None) -> set[str]:
    """Every name that may be a config group, those of the user's own folder too."""
    extra = config_dir or _config_dir_from_env()
    own = () if extra is None else (entry.name for entry in extra.iterdir() if entry.is_dir())
    return {*group_names(), *registered_groups(), *own}


def group_names() -> list[str]:
    """The config groups that exist: folders of `conf/` and groups with a schema."""
    folders = {entry.name for entry in conf_dir().iterdir() if entry.is_dir()}
    return sorted(folders)


def _unknown_key(error: Any) -> str:
    key = error.full_key or error.key
    keys = [str(name) for name in (error.parent_node or {})] if error.parent_node is not None else []
    if not keys and error.object_type is not None:
        keys = list(getattr(error.object_type, "__dataclass_fields__", {}))
    settable = [name for name in keys if name not in ("hydra", "kind")]
    return f"'{key}' is not a known key; {nearest(str(error.key), settable)}"


def _enum_hint(message: str) -> str:
    """OmegaConf lists an enum's members; the nearest one is added."""
    if "expected one of [" not in message:
        return message
    value = message.split("'")[1] if "'" in message else ""
    names = message.split("[", 1)[1].rstrip("]. ").split(",")
    return f"'{value}' is not a known value; {nearest(value, (name.strip() for name in names))}"


def _unset_line(root: str, parsed: Sequence[Any]) -> str:
    """Which override sets a part of what `root` leaves to be chosen, and how to choose it; empty when none does."""
    from omegaconf import OmegaConf

    listed: Any = OmegaConf.to_object(OmegaConf.load(conf_dir() / f"{root}.yaml"))
    entries = [entry for entry in listed.get("defaults", []) if isinstance(entry, dict)]
    unset = {group.rpartition("@")[2]: group for entry in entries for group, name in entry.items() if name is None}
    for override in parsed:
        key, _, inner = override.key_or_group.partition(".")
        if inner and key in unset:
            return f"{key} is not set: choose it first with {unset[key]}=NAME"
    return ""


def _missing_line(keys: list[str]) -> str:
    """What a mandatory value left open: a config group to choose from, or a plain value."""
    hints = []
    for key in keys:
        if registered(key.split(".")[0]) and "." not in key:
            hints.append(f"{key} (choose one with {key}=NAME)")
        else:
            hints.append(f"{key} (give it with {key}=VALUE)")
    return f"missing: {', '.join(hints)}"
