"""Config dataclasses are the only schema: registered with Hydra here, turned into frozen objects here.

A plugin's config is a keyword-only frozen dataclass that derives from its room's base class and sets `kind`.
OmegaConf makes nodes of frozen dataclasses read-only, so that YAML could not fill them; `schema` registers the node
with that flag cleared, and `OmegaConf.to_object` gives the frozen object back. Dicts of plugins are annotated
`dict[str, Any]` because OmegaConf creates a read-only node for a typed new key; `expect` restores the type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

_WHEN_CHANGED = "when changed"
_GROUPS: dict[str, dict[str, type]] = {}
_STORED: dict[tuple[str, str], type] = {}


def schema(group: str | None, name: str) -> Callable[[type[T]], type[T]]:
    """Register a config dataclass as `base_<name>` of `group` (None: a root config).

    Raises ValueError when another class already holds the name.
    """

    def register(cls: type[T]) -> type[T]:
        params = getattr(cls, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise ValueError(f"{cls.__name__} must be a frozen dataclass")
        held = _GROUPS.setdefault(group or "", {}).get(name)
        if held is not None and (held.__module__, held.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{group or 'root'} '{name}' is registered twice: {held.__qualname__}, {cls.__qualname__}")
        _GROUPS[group or ""][name] = cls
        return cls

    return register


def registered(group: str) -> Mapping[str, type]:
    """The config classes of a group by the name they were registered under."""
    return dict(_GROUPS.get(group, {}))


def registered_groups() -> list[str]:
    """The groups that have a config class."""
    return [group for group in _GROUPS if group]


def restored(group: str, values: Mapping[str, Any]) -> Any:
    """The config of a group from its recorded values, whose `kind` names its class; strings are taken as they are.

    Raises KeyError for a kind that is not registered, TypeError or ValueError for values that do not fit.
    """
    return _rebuilt(_GROUPS.get(group, {})[values["kind"]], values)


def _rebuilt(cls: type, values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    return cls(**{name: _member(hints.get(name), value) for name, value in values.items()})


def _member(hint: Any, value: Any) -> Any:
    """A recorded enum value as its member, a nested config's values as that config."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _rebuilt(hint, value)
    return value


def store_all() -> None:
    """Put every registered dataclass into Hydra's ConfigStore as a writable node."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    config_store = ConfigStore.instance()
    for group, classes in _GROUPS.items():
        for name, cls in classes.items():
            if _STORED.get((group, name)) is cls:
                continue
            _STORED[group, name] = cls
            node = OmegaConf.structured(cls)
            _clear_readonly(node)
            config_store.store(group=group or None, name=f"base_{name}", node=node, provider="quantbench")


def _clear_readonly(node: Any) -> None:
    from omegaconf import DictConfig

    if not isinstance(node, DictConfig):
        return
    node._set_flag("readonly", None)
    if node._is_none() or node._is_missing():
        return
    for key in node:
        _clear_readonly(node._get_node(key))


def not_identity(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """A field that never enters a key: ports, paths, verbosity, deadlines."""
    metadata = {"identity": False}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    if default is not dataclasses.MISSING:
        return dataclasses.field(default=default, metadata=metadata)
    return dataclasses.field(metadata=metadata)


def identity_when_changed(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """A field that enters keys only where its identity is not the default's.

    For fields added to a config whose keys are in use: results made before the field keep their keys.
    """
    metadata = {"identity": _WHEN_CHANGED}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def identity(config: Any) -> Any:
    """The part of a config that enters keys: nested dataclasses as dicts, without `not_identity` fields."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            field.name: identity(getattr(config, field.name))
            for field in dataclasses.fields(config)
            if _enters(field, config)
        }
    if isinstance(config, Mapping):
        return {str(key): identity(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [identity(value) for value in config]
    return config


def _enters(field: dataclasses.Field[Any], config: Any) -> bool:
    """Whether a field of `config` is part of its identity."""
    rule = field.metadata.get("identity", True)
    if rule != _WHEN_CHANGED:
        return bool(rule)
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    return bool(identity(getattr(config, field.name)) != identity(default))


def expect(value: Any, cls: type[T], where: str) -> T:
    """`value` as a `cls`; raises UsageError naming the config path otherwise."""
    from bench.base.errors import UsageError

    if not isinstance(value, cls):
        raise UsageError(f"{where}: expected a {cls.__name__}, got {type(value).__name__}")
    return value
