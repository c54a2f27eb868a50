"""Options of the commands: how the parser reads the settings of a stage, and the defaults of a settings file."""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import json
import operator
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from world_env.cli.console import runs_folder
from world_env.errors import InvalidOptionError, WorldEnvError
from world_env.policies.config import (
    CountBasedExploration,
    HeldExploration,
    MixtureExploration,
    PolicyExploration,
    RandomExploration,
    StuckSensorsExploration,
)
from world_env.run_config import check_names, read_config
from world_env.spec import EnvConfig, WrapperConfig
from world_env.struct import Struct, converted, shortened
from world_env.types import JSON

_SUBCOMMANDS = {
    "random": RandomExploration,
    "held": HeldExploration,
    "count-based": CountBasedExploration,
    "policy": PolicyExploration,
    "stuck-sensors": StuckSensorsExploration,
}
"""Explorations of the command line. A mixture is written in a settings file."""
_ENV_OPTIONS: dict[str, tuple[list[Any], JSON]] = {
    "env_id": ([tyro.conf.Positional], {"metavar": "ENV_ID"}),
    "kwargs": ([], {"name": "env-kwargs"}),
    "wrappers": (
        [tyro.conf.UseAppendAction],
        {
            "name": "wrapper",
            "metavar": "MODULE:CLASS",
            "help": "Wrapper of the environment, innermost first. One with arguments is written in a file of settings; "
            "wrappers of the command line are put around those of the file.",
        },
    ),
}
"""Names of the settings of an environment on the command line."""
_METAVARS = {int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}


class RealEnv(EnvConfig, frozen=True):
    """Real environment of a command that can do without one."""

    env_id: str | None = None  # type: ignore[assignment]
    """Gymnasium id of the real environment; "module:Id" if importing the module registers the id; or "module:Class" or
    "module:function". None: no real environment."""

    def config(self) -> EnvConfig | None:
        """The environment, or None without an id. Raises InvalidOptionError for arguments without an id."""
        if self.env_id is not None:
            return EnvConfig(**{name: getattr(self, name) for name in self.__struct_fields__})
        if self != type(self)():
            raise InvalidOptionError(
                "--env-kwargs, --wrapper, --action-chunk, --horizon and --reset-options belong to a real environment: "
                "give its ENV_ID too, or leave them out (a twin keeps those that it was fitted with)"
            )
        return None


class RealEnvOfTwin(RealEnv, frozen=True):
    """Real environment of a command that takes the one of its twin by default."""

    env_id: str | None = None  # type: ignore[assignment]
    """Gymnasium id of the real environment; "module:Id" if importing the module registers the id; or "module:Class" or
    "module:function". None: the one that the twin was fitted to."""


@dataclass(frozen=True)
class View:
    """How a command shows the settings of its stage, or nested ones.

    positional: settings that are words without a name. flat: nested settings whose options have no prefix.
    hidden: settings that only a file can give.
    runs: name of the default output folder inside the folder of runs; None: `out` is required.
    nested: how nested settings are shown, by their name.
    """

    positional: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    runs: str | None = None
    nested: Mapping[str, View] = field(default_factory=dict)


_LEARN = View(flat=("simulation", "real"), hidden=("min_action_std",))
VIEWS = {
    "build": View(runs="build", hidden=("fit", "refinement", "baseline_algo_kwargs")),
    "export": View(positional=("source",)),
    "fit": View(flat=("fit",)),
    "learn": View(flat=("learn",), nested={"learn": _LEARN}),
    "lint": View(positional=("dataset",)),
    "pool": View(runs="pool"),
    "refine": View(
        hidden=("later_exploration",),
        nested={
            "fit": View(hidden=("seed",)),
            "learn": View(flat=("simulation",), hidden=("real", "seed")),
        },
    ),
}
"""Name of a command -> how it shows its settings."""


class _Options:
    """Base of the types that the parser reads: a kind of settings, with the defaults of a file and a view.

    Not the settings themselves, because those without a default, such as a folder, may be missing.
    """

    kind: type[Struct]
    values: JSON
    view: View
    root: bool


class _Refused(Exception):
    """Settings that their class refuses. The parser would print a ValueError in another form."""

    def __init__(self, error: WorldEnvError) -> None:
        super().__init__(str(error))
        self.error = error


def _options(kind: type[Struct], values: JSON, view: View, *, root: bool = False) -> type[_Options]:
    members = {"kind": kind, "values": values, "view": view, "root": root}
    return type(kind.__name__, (_Options,), members | {"__doc__": kind.__doc__})


def parse(
    function: Callable[[Any], Any], words: list[str], *, prog: str, view: View | None = None
) -> Any:
    """Read the settings of a command from its words, and from the file of `--config`.

    function: takes the settings as its only argument, `config`; its docstring is the help of the command.
    Raises InvalidOptionError for the file, SystemExit for the words.
    """
    kind = get_type_hints(function)["config"]
    path = _config_path(words)
    values = {} if path is None else _values(kind, read_config(path), str(path))
    options = _options(kind, values, view or View(), root=True)
    text = inspect.getdoc(function)
    try:
        with _registry():
            return tyro.cli(options, prog=prog, args=words, description=text)
    except _Refused as refused:
        raise refused.error from None


def _config_path(words: list[str]) -> Path | None:
    for word, following in itertools.pairwise([*words, None]):
        if word == "--config" and following is not None:
            return Path(following)
        if word is not None and word.startswith("--config="):
            return Path(word.partition("=")[2])
    return None


def _values(kind: type[Struct], tree: JSON, where: str) -> JSON:
    """The settings of a file, of their types; nested settings stay dicts. Raises InvalidOptionError."""
    fields = {each.name: each.type for each in msgspec.structs.fields(kind)}
    check_names(tree, fields, where)
    for name, value in tree.items():
        _check_nested(fields[name], value, f"{where}: {name}")
    return {
        name: _values(fields[name], value, f"{where}: {name}")
        if _is_settings(fields[name]) and isinstance(value, dict)
        else converted(value, fields[name], where=f"{where}: {name}")
        for name, value in tree.items()
    }


def _check_nested(kind: Any, tree: Any, where: str) -> None:
    """Check the names, and the kinds of settings with several kinds, inside lists and tables of a file.

    Raises InvalidOptionError with the nearest known word. Values of the wrong type are left to the conversion.
    """
    inner = get_args(kind)
    if _is_settings(kind):
        fields = {each.name: each.type for each in msgspec.structs.fields(kind)}
        if not isinstance(tree, dict):
            raise InvalidOptionError(
                f"{where} is {shortened(tree)}, expected a table such as {{{next(iter(fields))} = ...}} with the "
                f"settings {', '.join(fields)}"
            )
        tag = kind.__struct_config__.tag_field
        check_names([name for name in tree if name != tag], fields, where)
        for name, value in tree.items():
            if name != tag:
                _check_nested(fields[name], value, f"{where}: {name}")
    elif get_origin(kind) in (tuple, list) and isinstance(tree, list) and inner:
        for number, value in enumerate(tree):
            _check_nested(inner[0], value, f"{where}[{number}]")
    elif kinds := {each.__struct_config__.tag: each for each in inner if _is_settings(each)}:
        if isinstance(tree, dict) and None not in kinds:
            _check_nested(_kind_of(tree, kinds, where), tree, where)


def _kind_of(tree: JSON, kinds: Mapping[Any, type[Struct]], where: str) -> type[Struct]:
    """The class that the tag of a table names."""
    field = next(iter(kinds.values())).__struct_config__.tag_field
    tag, known = tree.get(field or ""), ", ".join(map(str, kinds))
    if tag not in kinds:
        given = f"the unknown {field} {tag!r}" if field in tree else f"no {field}"
        near = difflib.get_close_matches(
            str(tag).replace("-", "_"), map(str, kinds), n=1, cutoff=0.5
        )
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise InvalidOptionError(f"{where} has {given}, expected one of {known}{hint}")
    return kinds[tag]


def _is_settings(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


@contextmanager
def _registry() -> Iterator[None]:
    registry = ConstructorRegistry()
    registry.primitive_rule(_json_rule)
    registry.primitive_rule(_wrapper_rule)
    registry.struct_rule(_struct_rule)
    with registry:
        yield


def _struct_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    options: Any = info.type
    if isinstance(options, type) and issubclass(options, Struct):  # one of several explorations
        values = _fields_of(info.default) if isinstance(info.default, Struct) else {}
        options = _options(options, values, View())
    elif not isinstance(options, type) or not issubclass(options, _Options):
        return None
    kind, view, texts = options.kind, options.view, field_texts(options.kind)
    made: JSON = {}
    fields = []
    for each in msgspec.structs.fields(kind):
        value = options.values.get(each.name, _default(each))
        if each.name in view.hidden:
            made |= {} if value is tyro.MISSING else {each.name: _made(each.type, value)}
        else:
            fields.append(_field(options, each.name, each.type, value, texts.get(each.name, "")))
    if options.root and fields:
        text = "File of settings, TOML or JSON: defaults that options replace."
        shown = tyro.conf.arg(help_behavior_hint="", metavar="PATH")
        fields.append(StructFieldSpec("config", Annotated[Path | None, shown], None, text))  # type: ignore[arg-type]

    def make(**given: Any) -> Any:
        given.pop("config", None)
        if view.runs is not None and given.get("out") is None:
            given["out"] = runs_folder() / view.runs / _folder_name(given["real"])
        try:
            return kind(**made | given)
        except WorldEnvError as error:
            raise _Refused(error) from error

    return StructConstructorSpec(make, tuple(fields))


def _made(kind: Any, value: Any) -> Any:
    """The value of a setting; nested settings of a file are made of their fields."""
    if not _is_settings(kind) or not isinstance(value, dict):
        return value
    types_of = {each.name: each.type for each in msgspec.structs.fields(kind)}
    return kind(**{name: _made(types_of[name], inner) for name, inner in value.items()})


def _fields_of(settings: Struct) -> JSON:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}


def _default(each: msgspec.structs.FieldInfo) -> Any:
    if each.default is not msgspec.NODEFAULT:
        return each.default
    return tyro.MISSING if each.default_factory is msgspec.NODEFAULT else each.default_factory()


def _folder_name(real: EnvConfig) -> str:
    return real.env_id.replace("/", "-").replace(":", "-")


def _field(owner: type[_Options], name: str, of: Any, default: Any, text: str) -> StructFieldSpec:
    """One option, or the options of nested settings."""
    options: dict[str, Any] = {}
    markers: list[Any] = []
    if name == "out" and owner.view.runs is not None and default is tyro.MISSING:
        of, default, text = Path | None, None, f"{text} Default: runs/{owner.view.runs}/ENV_ID."
    if _is_settings(of):
        # Instances are defaults of classes; a file gives the fields.
        values = default if isinstance(default, dict) else {}
        of = _options(of, values, owner.view.nested.get(name, View()))
        default = tyro.MISSING
        if name in owner.view.flat or issubclass(of.kind, EnvConfig):
            options["name"] = ""
    elif issubclass(owner.kind, EnvConfig) and name in _ENV_OPTIONS:
        marker, names = _ENV_OPTIONS[name]
        markers += marker
        options |= names
    elif any(each in get_args(of) for each in _SUBCOMMANDS.values()):
        of = _explorations(default)
    if name in owner.view.positional:
        markers.append(tyro.conf.Positional)
    if default is None:
        # The text says what None means, and words cannot give it.
        options = {"help_behavior_hint": "", **_metavar(of)} | options
        if tyro.conf.Positional in markers:
            options["metavar"] = f"[{options['metavar']}]"
        text = text.replace("(None: ", "(default: ").replace("None: ", "Default: ")
    if options:
        markers.append(tyro.conf.arg(**options))
    return StructFieldSpec(name, Annotated[(of, *markers)] if markers else of, default, text)  # type: ignore[arg-type]


def _metavar(of: Any) -> JSON:
    kinds = [each for each in get_args(of) if each is not type(None)]
    if len(kinds) == 1 and kinds[0] in _METAVARS:
        return {"metavar": _METAVARS[kinds[0]]}
    if len(kinds) == 1 and get_origin(kinds[0]) is tuple:
        return {"metavar": f"[{_METAVARS[get_args(kinds[0])[0]]} ...]"}
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return {"metavar": "{" + ",".join(map(str, get_args(kinds[0]))) + "}"}
    return {}


def _explorations(default: Any) -> Any:
    """Subcommands of an exploration: `exploration:held --exploration.steps 5`."""
    kinds = [
        Annotated[(each, tyro.conf.subcommand(name=name))] for name, each in _SUBCOMMANDS.items()
    ]
    if isinstance(default, MixtureExploration):
        kinds.append(Annotated[MixtureExploration, tyro.conf.subcommand(name="mixture")])  # type: ignore[arg-type]
    if default is None:
        preset = tyro.conf.subcommand(name="preset", description="As the preset of the algorithm.")
        kinds.append(Annotated[None, preset])  # type: ignore[arg-type]
    return functools.reduce(operator.or_, kinds)


@functools.cache
def field_texts(kind: type[Struct]) -> dict[str, str]:
    """Texts of the fields of a struct, also of inherited ones, each on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is object or not issubclass(base, Struct) or base is Struct:
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for line, following in itertools.pairwise(body):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
            ):
                texts[line.target.id] = " ".join(str(following.value.value).split())
    return texts


def _wrapper_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How the parser reads a wrapper: "module:Class"."""
    if info.type is not WrapperConfig:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="MODULE:CLASS",
        instance_from_str=lambda words: WrapperConfig(words[0]),
        is_instance=lambda value: isinstance(value, WrapperConfig),
        str_from_instance=lambda value: [value.name],
    )


def _json_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """How the parser reads an option of type dict: one argument of JSON, such as '{"gamma": 0.95}'."""
    kinds = {get_origin(kind) or kind for kind in get_args(info.type)}
    # By default tyro makes subcommands of `dict | None`, and fails on unknown options inside them.
    optional = info.type_origin in (Union, types.UnionType) and kinds == {dict, type(None)}
    if info.type_origin is not dict and not optional:
        return None

    def read(words: list[str]) -> Any:
        if optional and words[0] == "None":
            return None
        tree = json.loads(words[0])
        if not isinstance(tree, dict):
            raise ValueError(
                f"expected a JSON object such as '{{\"gamma\": 0.95}}', got {words[0]}"
            )
        return tree

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="JSON",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, dict) or (optional and value is None),
        str_from_instance=lambda value: ["None" if value is None else json.dumps(value)],
    )
