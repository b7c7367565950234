"""Registered dataclasses compose, come back frozen, and keep what does not identify them out of keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.base.compose import compose
from bench.base.errors import UsageError
from bench.base.schema import expect, identity, identity_when_changed, not_identity, schema


@dataclass(frozen=True, kw_only=True)
class Shape:
    kind: str = "?"
    size: int = 1
    color: str = not_identity("red")


@schema("test_shape", "disc")
@dataclass(frozen=True, kw_only=True)
class Disc(Shape):
    kind: str = "disc"
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"test_shape.radius={self.radius} must be positive")


@schema(None, "test_drawing")
@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Shape = "???"  # type: ignore[assignment]  # OmegaConf's mark for a value that must be given
    shapes: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    (folder / "test_shape").mkdir(parents=True)
    (folder / "test_shape" / "disc.yaml").write_text("defaults: [base_disc, _self_]\nradius: 2\n")
    return folder


def draw(config_dir: Path, *overrides: str) -> Drawing:
    chosen = [] if any("@shape=" in override for override in overrides) else ["+test_shape@shape=disc"]
    return compose("base_test_drawing", [*chosen, *overrides], Drawing, config_dir=config_dir)


def test_a_yaml_fills_a_frozen_subclass(config_dir: Path) -> None:
    drawing = draw(config_dir)
    assert drawing.shape == Disc(radius=2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawing.shape.size = 3  # type: ignore[misc]  # that it is frozen is the point


def test_plural_plugins_are_dicts_by_name(config_dir: Path) -> None:
    drawing = draw(config_dir, "+test_shape@shapes.a=disc", "shapes.a.radius=5")
    assert drawing.shapes == {"a": Disc(radius=5.0)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("shape.radus=3", "'shape.radus' is not a known key; did you mean 'radius'?"),
        ("shape.radius=big", "shape.radius"),
        ("+test_shape@shape=dics", "test_shape 'dics' is unknown; did you mean 'disc'?"),
        ("shape.radius=-1", "test_shape.radius=-1.0 must be positive"),
        ("shape.radius==1", "cannot read the override 'shape.radius==1'"),
        ("+shape.colour=red", "colour"),
    ],
)
def test_bad_overrides_are_one_line_that_names_them(config_dir: Path, override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        draw(config_dir, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_value_is_named(config_dir: Path) -> None:
    with pytest.raises(UsageError, match=r"missing: shape \(give it with shape=VALUE\)"):
        compose("base_test_drawing", [], Drawing, config_dir=config_dir)


def test_identity_leaves_out_what_does_not_identify() -> None:
    one = Drawing(shape=Disc(color="red"), shapes={"a": Disc(color="blue")})
    other = Drawing(shape=Disc(color="green"), shapes={"a": Disc(color="black")})
    assert identity(one) == identity(other)
    assert identity(one) != identity(dataclasses.replace(one, shape=Disc(size=2)))


def test_a_field_added_later_changes_an_identity_only_where_it_is_used() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Inner:
        depth: int = 1
        path: str = not_identity("here")

    @dataclass(frozen=True, kw_only=True)
    class Grown:
        size: int = 3
        added: bool = identity_when_changed(False)
        inner: Inner = identity_when_changed(default_factory=Inner)  # noqa: RUF009 - a field specifier

    assert identity(Grown()) == identity(Grown(inner=Inner(path="there"))) == {"size": 3}
    assert identity(Grown(added=True)) == {"size": 3, "added": True}
    assert identity(Grown(inner=Inner(depth=2))) == {"size": 3, "inner": {"depth": 2}}


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):

        @schema("test_shape", "disc")
        @dataclass(frozen=True, kw_only=True)
        class Other(Shape):
            kind: str = "other"


def test_only_frozen_dataclasses_are_schemas() -> None:
    with pytest.raises(ValueError, match="frozen"):

        @schema("test_shape", "loose")
        @dataclass
        class Loose:
            kind: str = "loose"


def test_expect_names_the_config_path() -> None:
    assert expect(Disc(), Shape, "shapes.a") == Disc()
    with pytest.raises(UsageError, match=r"shapes\.a: expected a Shape, got dict"):
        expect({}, Shape, "shapes.a")


@dataclass(frozen=True, kw_only=True)
class Grown:
    old: int = 1
    new: str | None = identity_when_changed(None)


def test_a_field_that_was_added_later_enters_keys_only_where_it_was_set() -> None:
    assert identity(Grown()) == {"old": 1}
    assert identity(Grown(new="x")) == {"old": 1, "new": "x"}
