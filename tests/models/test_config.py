"""Configurations of families: nested, strict, and the same after a twin was saved."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from oracle import real_spec

from world_env.errors import InvalidOptionError, TwinFormatError
from world_env.models.config import config_from_json, config_to_json
from world_env.models.linear import LinearWorldModel
from world_env.struct import Struct
from world_env.twin.twin import Twin


@dataclasses.dataclass(frozen=True)
class Encoder:
    widths: tuple[int, ...] = (8, 8)
    activation: str = "silu"


@dataclasses.dataclass(frozen=True)
class Nested:
    encoder: Encoder = Encoder()
    heads: tuple[Encoder, ...] = ()
    dropout: float | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}, expected a fraction in [0, 1)")


class NestedStruct(Struct, frozen=True, kw_only=True):
    encoder: Encoder = Encoder()
    heads: tuple[Encoder, ...] = ()
    dropout: float | None = None


CONFIGS = [Nested, NestedStruct]


class NestedModel(LinearWorldModel):
    config_class = Nested


class NestedStructModel(LinearWorldModel):
    config_class = NestedStruct


MODELS = {Nested: NestedModel, NestedStruct: NestedStructModel}


@pytest.mark.parametrize("config_class", CONFIGS)
def test_nested_configs_return_from_json(config_class: Any) -> None:
    config = config_class(encoder=Encoder((4,), "relu"), heads=(Encoder(), Encoder((1, 2))))
    tree = json.loads(json.dumps(config_to_json(config), allow_nan=False))
    assert config_from_json(config_class, tree, where="here") == config


@pytest.mark.parametrize("config_class", CONFIGS)
@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"encoder": {"width": 3}}, r"^here: .*width.*encoder"),
        ({"heads": [{}, {"widths": ["a"]}]}, r"^here: Expected `int`, got `str`.*\$\.heads\[1\]"),
        ({"heads": [{}, {"depth": 1}]}, r"^here: .*heads\[1\]\.depth"),
        ({"dropout": "high"}, r"^here: .*\$\.dropout"),
        ({"depth": 3}, r"^here: .*depth.*'encoder', 'heads', 'dropout'"),
    ],
)
def test_a_wrong_field_is_named_with_its_path(
    config_class: Any, tree: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        config_from_json(config_class, tree, where="here")


@pytest.mark.parametrize("config_class", CONFIGS)
def test_defaults_are_stored_too(config_class: Any) -> None:
    """They may change in a later version of the family."""
    config = config_from_json(config_class, {"heads": [{}]}, where="here")
    assert config_to_json(config) == config_to_json(config_class(heads=(Encoder(),)))
    assert config_to_json(config)["heads"] == [{"widths": [8, 8], "activation": "silu"}]


def test_values_are_checked_too() -> None:
    with pytest.raises(InvalidOptionError, match=r"dropout is 2\.0"):
        config_from_json(Nested, {"dropout": 2.0}, where="here")


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_twin_with_a_nested_config_loads_again(
    config_class: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("world_env.twin.twin.load_family", lambda family: MODELS[config_class])
    config = config_class(encoder=Encoder((4, 4, 4), "relu"), dropout=0.5)
    twin = Twin.untrained(real_spec("CartPole-v1"), "nested", config)
    folder = twin.save(tmp_path / "twin")
    assert Twin.load(folder).model.config == config
    path = folder / "twin.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["config"]["encoder"]["width"] = 3
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(TwinFormatError, match=r"'nested'.*width"):
        Twin.load(folder)
