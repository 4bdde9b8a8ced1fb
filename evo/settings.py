"""From files, `--set` and options to one Config, and back to YAML; every mistake is one line that names the setting.

Where a setting is given more than once the later wins: defaults < file < `--set` < the command's own options.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from evo.config import Config, ConfigError, Section


def build(*layers: Mapping[str, Any]) -> Config:
    """The defaults with each layer laid over those before. Keys may be nested or dotted. Raises ConfigError."""
    merged: dict[str, Any] = {}
    for layer in layers:
        flat = list(_flat(layer))
        if {("training", "steps")} <= (given := {path for path, _ in flat}) and ("training", "epochs") not in given:
            # A life's length in steps wins over an earlier one in epochs.
            flat.append((("training", "epochs"), None))
        for path, value in flat:
            _check_path(path)
            spot = merged
            for i, part in enumerate(path[:-1], start=1):
                section = ".".join(path[:i])
                spot = spot.setdefault(part, {})
                if not isinstance(spot, dict):
                    raise ConfigError(_wrong(section, _paths()[section], spot))
            spot[path[-1]] = value
    _keep_shape(merged)
    try:
        return Config.model_validate(merged)
    except ValidationError as err:
        raise ConfigError(_one_line(err)) from err


def _keep_shape(merged: dict[str, Any]) -> None:
    """A search keeps the seed's shape where only that is given: the default ranges must not take its place."""
    network = merged.get("network")
    given = {"hidden", "density"} & network.keys() if isinstance(network, dict) else set()
    if given and isinstance(search := merged.setdefault("search", {}), dict):
        if "hidden" in given:
            search.setdefault("hidden", None)
        search.setdefault("seed_parameters", None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises ConfigError where there is no such file or it holds no settings."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"--config: no file {str(path)!r}; write one with `evo config > {path}`") from err
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as err:
        where = getattr(err, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        problem = getattr(err, "problem", None) or str(err)
        raise ConfigError(
            f"--config: {path}{line}: expected YAML, got what cannot be read as such ({problem})"
        ) from err
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"--config: {path}: expected lines of `key: value`, got {_short(loaded)}; see `evo config`")
    return loaded or {}


def assignment(text: str) -> dict[str, Any]:
    """`a.b=c` as a layer of settings, c read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set: expected key=value, got {text!r}; write for example --set training.epochs=40")
    try:
        return {key.strip(): yaml.safe_load(value)}
    except yaml.YAMLError as err:
        raise ConfigError(f"{key.strip()}: expected a value in YAML, got {value!r}; put it in quotes") from err


def to_yaml(config: BaseModel, indent: str = "") -> str:
    """Every setting with its description as a comment; `build(yaml.safe_load(text))` gives an equal config."""
    lines = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        comment = f"# {field.description}" if field.description else ""
        if isinstance(value, Section):
            lines.append(f"\n{indent}{name}:  {comment}\n{to_yaml(value, indent + '  ')}".rstrip("\n"))
        else:
            lines.append(f"{f'{indent}{name}: {_scalar(value)}':<40} {comment}".rstrip())
    return "\n".join(lines) + "\n"


def _flat(layer: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in layer.items():
        path = (*above, *str(key).split("."))
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping):
            _check_path(path)
            yield from _flat(value, path)
        else:
            yield path, value


def _paths(model: type[BaseModel] = Config, above: str = "") -> dict[str, FieldInfo]:
    """Every setting by dotted name, sections included."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        found[above + name] = field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found.update(_paths(field.annotation, f"{above}{name}."))
    return found


def _check_path(path: tuple[str, ...]) -> None:
    known, key = _paths(), ".".join(path)
    if key in known:
        return
    same_end = [k for k in known if k.rpartition(".")[2] == path[-1]]
    close = same_end or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        ends = [k.rpartition(".")[2] for k in known]
        near = difflib.get_close_matches(path[-1], ends, n=1, cutoff=0.75)
        close = [k for k in known if k.rpartition(".")[2] in near]
    cure = f"write {' or '.join(close[:3])}" if close else "`evo config` lists every setting"
    raise ConfigError(f"{key}: there is no such setting; {cure}")


def _one_line(err: ValidationError) -> str:
    errors = err.errors()
    first = errors[0]
    more = f" (and {len(errors) - 1} more like it)" if len(errors) > 1 else ""
    if first["type"] == "value_error":
        return f"{first['ctx']['error']}{more}"
    path = ".".join(part for part in first["loc"] if isinstance(part, str))
    value: Any = first["input"]
    field = _paths()[path]
    return _wrong(path, field, value) + more


def _wrong(path: str, field: FieldInfo, value: Any) -> str:
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
        some = next(iter(field.annotation.model_fields))
        return f"{path}: expected a section of settings, got {_short(value)}; write for example {path}.{some}"
    return (
        f"{path}: expected {_expected(field.annotation, field.metadata)}, got {_short(value)}; "
        f"write for example {path}: {_EXAMPLES.get(path) or _scalar(field.default)}"
    )


_PATTERNS = {"^(auto|cpu": "auto, cpu, cuda or cuda:N", "^(auto|(ray": "auto, HOST:PORT or ray://HOST:PORT"}
"""In words, what a pattern that begins so takes."""


_EXAMPLES = {"address": "ray://HOST:10001"}
"""Of what is empty by default, and must have a certain form where it is not."""


def _expected(kind: Any, bounds: Any = (), many: bool = False) -> str:
    """In words, what a field of this type takes."""
    origin, inner = get_origin(kind), get_args(kind)
    limits = [
        f"{sign} {getattr(b, attribute):g}"
        for b in _unfold(bounds)
        for bound, sign, attribute in ((Ge, "≥", "ge"), (Gt, ">", "gt"), (Le, "≤", "le"), (Lt, "<", "lt"))
        if isinstance(b, bound)
    ]
    tail = f" {' and '.join(limits)}" if limits else ""
    if origin is Annotated:
        return _expected(inner[0], inner[1:], many)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(k, bounds if k is not type(None) else ()) for k in inner)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        number = "" if Ellipsis in inner else f"{len(inner)} "
        return f"a list of {number}{_expected(inner[0], many=True)}"
    pattern = next((b.pattern for b in _unfold(bounds) if getattr(b, "pattern", None)), None)
    if pattern:
        return next(words for start, words in _PATTERNS.items() if pattern.startswith(start))
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return (f"{plain[kind].removeprefix('a ')}s" if many else plain[kind]) + tail


def _unfold(bounds: Any) -> Iterator[Any]:
    for bound in bounds:
        yield from _unfold(bound.metadata) if isinstance(bound, FieldInfo) else (bound,)


def _scalar(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
