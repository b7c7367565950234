"""Composing many configs that differ in few values: what they share is composed once.

A compose takes Hydra a tenth of a second, and a sweep has hundreds of cells. Hydra sets plain values last, each with
`OmegaConf.update` (`ConfigLoaderImpl._apply_overrides_to_config` of 1.3); here they are set in the same way on a copy
of what all other overrides compose to. Whatever does not fit is left to Hydra whole, and so are its messages.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any


class SharedComposes:
    """What sets of overrides compose to, for one root and one configuration folder, while neither changes."""

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], Any] = {}

    def compose(
        self,
        hydra_compose: Callable[[list[str]], Any],
        overrides: Sequence[str],
        parsed: Sequence[Any],
        groups: Collection[str],
    ) -> Any:
        """The config that `hydra_compose(overrides)` gives; `parsed` are the same overrides.

        `groups` are the names of config groups. Raises what Hydra and OmegaConf raise.
        """
        from hydra.errors import HydraException
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        plain = plain_values(parsed, groups)
        shared = tuple(text for text, override in zip(overrides, parsed, strict=True) if override not in plain)
        try:
            if shared not in self._composed:
                self._composed[shared] = hydra_compose(list(shared))
            config = copy.deepcopy(self._composed[shared])
            for override in plain:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except (HydraException, OmegaConfBaseException, AssertionError):
            return hydra_compose(list(overrides))
        return config


def plain_values(parsed: Sequence[Any], groups: Collection[str]) -> list[Any]:
    """The overrides that set a value which is there, and that none of the others adds to or removes.

    Choices of groups are none of those: wherever they stand, Hydra composes them before it sets any value.
    """
    changed = [override for override in parsed if not (_sets(override, groups) or _chooses(override, groups))]
    return [
        override
        for override in parsed
        if _sets(override, groups) and not any(_related(override.key_or_group, other.key_or_group) for other in changed)
    ]


def _sets(override: Any, groups: Collection[str]) -> bool:
    """Whether it is `key=value`, of no config group."""
    from hydra.core.override_parser.types import OverrideType

    key = override.key_or_group
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.is_sweep_override()
        and "/" not in key
        and key not in groups
    )


def _chooses(override: Any, groups: Collection[str]) -> bool:
    """Whether it chooses an option of a config group."""
    return override.key_or_group in groups and not override.is_delete()


def _related(one: str, other: str) -> bool:
    """Whether a key is another, inside it, or around it."""
    first, second = one.split("."), other.split(".")
    shorter = min(len(first), len(second))
    return first[:shorter] == second[:shorter]
