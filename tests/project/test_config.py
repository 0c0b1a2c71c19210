from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.config import describe, dump_toml, from_dict, load, usage
from mohist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 3e-6
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = 1.0
    """Largest gradient norm;
    none does not clip."""
    kind: Literal["adamw", "sgd"] = "adamw"


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A section of several kinds."""

    name: str
    colour: str = "red"

    @classmethod
    def variants(cls) -> dict[str, type]:
        return {"circle": Circle, "square": Square}


@dataclass(frozen=True, kw_only=True)
class Circle(Shape):
    name: str = "circle"
    radius: float = 1.0
    """In metres."""


@dataclass(frozen=True, kw_only=True)
class Square(Shape):
    name: str = "square"
    side: int = 1
    corners: Circle | None = None


@dataclass(frozen=True, kw_only=True)
class Drawing:
    shape: Shape = field(default_factory=Square)
    shapes: tuple[Shape, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Run:
    steps: int = 100
    """Optimiser steps."""
    resume: bool = False
    folder: Path = Path("runs/new")
    layers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    seed: int | None = None
    optim: Optim = field(default_factory=Optim)
    eval: Optim | None = None
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps = {self.steps}: at least 1")


def from_toml(tmp_path: Path, text: str, *overrides: str) -> Run:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return load(Run, path=path, overrides=overrides)


def test_overrides_beat_the_file_and_the_file_beats_defaults(tmp_path: Path) -> None:
    config = from_toml(
        tmp_path, "steps = 7\n[optim]\nlr = 1\nkind = 'sgd'\n", "--optim.lr", "5e-4", "--resume=true"
    )
    assert config == Run(steps=7, resume=True, optim=Optim(lr=5e-4, kind="sgd"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--steps", "1_000"], Run(steps=1000)),
        (["--seed", "none"], Run(seed=None)),
        (["--seed=-3"], Run(seed=-3)),
        (["--layers", "1,2,3"], Run(layers=(1, 2, 3))),
        (["--layers", ""], Run(layers=())),
        (["--layers", "[4, 5]"], Run(layers=(4, 5))),
        (["--names", '["a,b", "c"]'], Run(names=("a,b", "c"))),
        (["--optim.betas", "0.5,0.75"], Run(optim=Optim(betas=(0.5, 0.75)))),
        (["--optim.clip", "none"], Run(optim=Optim(clip=None))),
        (["--eval.lr", "1"], Run(eval=Optim(lr=1.0))),
        (["--eval", "none"], Run()),
        (["--eval", "{lr = 2.0}"], Run(eval=Optim(lr=2.0))),
        (["--folder", "runs/x"], Run(folder=Path("runs/x"))),
        (["--stages", '[{name = "warm-up"}]'], Run(stages=(Stage(name="warm-up"),))),
    ],
)
def test_command_line_values(words: list[str], expected: Run) -> None:
    assert load(Run, overrides=words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.lrr", "1"], r"optim\.lrr: no such key; did you mean optim\.lr\?"),
        (["--optimizer.lr", "1"], r"optimizer\.lr: no such key; did you mean optim\.lr\?"),
        (["--steps.more", "1"], r"steps\.more: no such key"),
        (["--steps", "many"], r"steps = 'many': expected int"),
        (["--steps", "none"], r"steps = 'none': expected int"),
        (["--seed", "1.5"], r"seed = '1.5': expected int\|none"),
        (["--resume", "yes"], r"resume = 'yes': expected true\|false"),
        (["--optim.kind", "adam"], r"optim\.kind = 'adam': expected adamw\|sgd"),
        (["--optim.betas", "1"], r"optim\.betas = \[1\.0\]: expected float,float"),
        (["--layers", "1,x"], r"layers\[1\] = 'x': expected int"),
        (["--layers", "[1"], r"layers = '\[1': expected int,\.\.\."),
        (["--steps"], r"steps: no value follows --steps"),
        (["steps", "3"], r"'steps': expected --section\.field value"),
        (["--stages", "[{steps = 2}]"], r"stages\[0\]\.name: no value given"),
        (["--steps", "0"], r"steps = 0: at least 1"),
    ],
)
def test_mistakes_name_the_key_the_value_and_the_fix(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(Run, overrides=words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 1", r"stepz: no such key; did you mean steps\?"),
        ("[optim]\nlrate = 1", r"optim\.lrate: no such key; did you mean optim\.lr\?"),
        ("qqq = 1", r"qqq: no such key; known: steps, resume"),
        ("steps = 1.5", r"steps = 1\.5: expected int"),
        ("steps = true", r"steps = True: expected int"),
        ("resume = 1", r"resume = 1: expected true\|false"),
        ("optim = 3", r"optim = 3: expected a table"),
        ("steps = ", r"run\.toml: not a TOML file"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_toml(tmp_path, text)


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(Run, path=tmp_path / "absent.toml")


def test_required_field() -> None:
    with pytest.raises(ConfigError, match="name: no value given"):
        from_dict(Stage, {})


def test_describe_reads_attribute_docstrings_and_types() -> None:
    entries = {entry.key: entry for entry in describe(Run)}
    assert entries["steps"].doc == "Optimiser steps."
    assert entries["optim.clip"].doc == "Largest gradient norm; none does not clip."
    assert entries["optim.clip"].type == "float|none"
    assert entries["optim.kind"].default == '"adamw"'
    assert entries["seed"].default == '"none"'
    assert [entry.default for entry in describe(Stage)] == [None, "1"]
    assert "--optim.lr float  (default 3e-06)\n      Peak learning rate." in usage(Run)


def test_an_unsupported_field_type_is_the_programmers_mistake() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        both: int | str = 1

    with pytest.raises(TypeError, match="cannot be of type"):
        describe(Odd)


finite = st.floats(allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
optims = st.builds(
    Optim,
    lr=finite,
    betas=st.tuples(finite, finite),
    clip=st.none() | finite,
    kind=st.sampled_from(["adamw", "sgd"]),
)
runs = st.builds(
    Run,
    steps=st.integers(1, 10**18),
    resume=st.booleans(),
    folder=text.map(Path),
    layers=st.lists(st.integers(-(2**63), 2**63 - 1)).map(tuple),
    names=st.lists(text).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    optim=optims,
    eval=st.none() | optims,
    stages=st.lists(st.builds(Stage, name=text, steps=st.integers(0, 9))).map(tuple),
)


@given(runs)
def test_every_config_survives_the_file(tmp_path_factory: pytest.TempPathFactory, config: Run) -> None:
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    path.write_bytes(dump_toml(config).encode())
    assert load(Run, path=path) == config


@given(optims)
def test_every_config_survives_the_command_line(config: Optim) -> None:
    words = [f"--lr={config.lr}", f"--betas={config.betas[0]},{config.betas[1]}"]
    words += ["--clip", "none" if config.clip is None else str(config.clip), "--kind", config.kind]
    assert load(Optim, overrides=words) == config


def test_a_section_of_several_kinds_is_read_by_the_kind_that_it_names(tmp_path: Path) -> None:
    path = tmp_path / "drawing.toml"
    path.write_text('shape = {name = "circle", radius = 2, colour = "blue"}\n[[shapes]]\nname = "square"\n')
    drawing = load(Drawing, path=path)
    assert drawing == Drawing(shape=Circle(radius=2.0, colour="blue"), shapes=(Square(),))
    assert load(Drawing, path=path, overrides=["--shape.radius", "3"]).shape == Circle(
        radius=3.0, colour="blue"
    )
    path.write_text(dump_toml(drawing))
    assert load(Drawing, path=path) == drawing
    assert load(Drawing, overrides=["--shape.name", "circle", "--shape.radius", "4"]).shape == Circle(
        radius=4
    )
    assert from_dict(Circle, {"radius": 2}) == Circle(radius=2.0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"shape": {"name": "sqare"}}, "shape.name = 'sqare': no such name; did you mean square?"),
        ({"shape": {"name": 7}}, "shape.name = 7: no such name; known: circle, square"),
        ({"shape": {"side": 2}}, "shape.name: no value given; known: circle, square"),
        ({"shape": {"name": "square", "sides": 2}}, "shape.sides: no such key; did you mean shape.side?"),
        ({"shape": {"name": ["square"]}}, "shape.name = ['square']: no such name; did you mean square?"),
    ],
)
def test_a_wrong_kind_of_section_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(Drawing, table)


def test_help_lists_the_kinds_of_a_section_and_their_keys() -> None:
    text = usage(Drawing)
    assert "--shape.name circle|square  (required)" in text
    assert "--shape.radius float  (default 1.0)\n      (circle) In metres." in text
    assert text.count("--shape.colour") == 1
