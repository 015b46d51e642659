"""`params.cfg`: defaults, checks before storing, derived `bigN`; and that nothing asks it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ptycho_backends.errors import ConfigError
from ptycho_backends.params import params

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh_cfg() -> Iterator[None]:
    before = dict(params.cfg)
    params.cfg.clear()
    params.cfg.update(params.defaults())
    yield
    params.cfg.clear()
    params.cfg.update(before)


def test_defaults_of_the_specification() -> None:
    defaults = params.defaults()
    assert len(defaults) == 40
    assert (defaults["N"], defaults["gridsize"], defaults["nepochs"], defaults["probe_scale"]) == (
        128,
        2,
        60,
        10.0,
    )
    assert (defaults["object.big"], defaults["probe.big"], defaults["probe.mask"]) == (True, False, True)
    assert defaults["outer_offset_train"] is None
    assert "bigN" not in defaults
    params.validate()


def test_defaults_are_fresh() -> None:
    params.defaults()["N"] = 1
    assert params.defaults()["N"] == 128
    assert params.cfg["N"] == 128


def test_get() -> None:
    assert params.get("gridsize") == 2
    assert params.get("bigN") == 128 + 4
    assert params.get("absent", None) is None
    assert params.get("absent", 3) == 3
    with pytest.raises(KeyError, match="params has no 'absent'"):
        params.get("absent")
    with pytest.raises(KeyError, match="did you mean 'gridsize'"):
        params.get("grid_size")
    # a value that no run has written yet is absent, not a default
    with pytest.raises(KeyError):
        params.get("intensity_scale")


def test_set_stores_what_is_allowed() -> None:
    params.set("N", 64)
    params.set("amp_activation", "silu")
    params.set("intensity_scale", np.float32(31.25))
    params.set("probe", np.ones((64, 64, 1), np.complex64))
    params.set("timestamp", "today")
    params.set("my.own.key", {"any": "thing"})
    assert params.cfg["N"] == 64
    assert params.get("bigN") == 68
    assert params.get("my.own.key") == {"any": "thing"}
    params.validate()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("N", 100),
        ("N", 0),
        ("gridsize", 3.5),
        ("batch_size", 3),
        ("object.big", 1),
        ("probe.mask", None),
        ("mae_weight", 1.5),
        ("model_type", "other"),
        ("output_prefix", Path("out")),
        ("nimgs_train", 0),
        ("set_phi", "no"),
        ("intensity_scale", 0),
        ("intensity_scale", "31"),
        ("intensity_scale", np.ones(2)),
        ("intensity_scale", np.nan),
    ],
)
def test_set_checks_before_it_stores(key: str, value: object) -> None:
    before = dict(params.cfg)
    with pytest.raises(ConfigError, match=f"params: {key}: got .*, want "):
        params.set(key, value)
    assert params.cfg == before


def test_set_refuses_keys_that_are_derived_or_no_text() -> None:
    with pytest.raises(ConfigError, match="bigN is derived"):
        params.set("bigN", 200)
    with pytest.raises(ConfigError, match="want text"):
        params.set(3, 4)  # type: ignore[arg-type]


def test_params_is_a_copy_with_big_side() -> None:
    snapshot = params.params()
    assert snapshot == {**params.cfg, "bigN": 132}
    snapshot["N"] = 1
    assert params.cfg["N"] == 128
    assert "bigN" not in params.cfg


def test_validate_lists_everything_that_was_broken_in_place() -> None:
    params.cfg["N"] = 63
    params.cfg["probe_scale"] = -1
    del params.cfg["gridsize"]
    with pytest.raises(ConfigError) as caught:
        params.validate()
    for part in ("N: got 63", "probe_scale: got -1, want a number > 0", "gridsize: missing"):
        assert part in str(caught.value)


def test_nothing_in_the_library_asks_params() -> None:
    """`params.get`, `params.params` and `params.cfg[...]` occur behind the legacy door only."""
    askers = []
    for package in ("ptycho_backends", "ptycho_torch"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if "legacy" in path.parts or "params" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                reads_attribute = isinstance(node, ast.Attribute) and node.attr in ("get", "params")
                reads_item = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
                if (reads_attribute or reads_item) and _is_params(node.value):  # type: ignore[attr-defined]
                    askers.append(f"{path.relative_to(REPOSITORY)}:{node.lineno}")
    assert askers == []


def _is_params(node: ast.AST) -> bool:
    return ast.unparse(node) in ("params", "params.cfg", "cfg", "legacy.params", "legacy.params.cfg")
