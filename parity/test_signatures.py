"""Mirrors mirror: the same functions, parameters and order in every framework. Parses; imports no framework."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "ptycho_backends" / "reference"
TORCH = REPOSITORY / "ptycho_torch" / "backend"
TENSORFLOW = REPOSITORY / "ptycho_backends" / "tensorflow"

# Plain NumPy that the frameworks call as it is: nothing in it needs a gradient.
NUMPY_ALONE = {
    "physics": {"central_box", "smoothing_weights", "extract_patches"},
    "network": {"border_mask"},
    "losses": set(),
}

# What only one framework needs.
TENSORFLOW_ALONE = {
    "arrays": {"complex_dtype", "arrays_from_batch", "batch_signature", "in_precision", "channels_first"},
    "inference": {"network_dtype", "strategy"},
}
TORCH_ALONE = {
    "arrays": {"as_tensor", "constant", "counts"},
    "inference": {"stitch_together"},
}


def public_signatures(path: Path) -> dict[str, str]:
    """`{name: parameters}` of every public function, in order; annotations differ and are left out."""
    signatures = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            signatures[node.name] = ast.unparse(node.args)
    return signatures


@pytest.mark.parametrize("framework", [TORCH, TENSORFLOW], ids=["torch", "tensorflow"])
@pytest.mark.parametrize("module", ["physics", "network", "losses"])
def test_mirrors_of_the_reference(framework, module):
    want = public_signatures(REFERENCE / f"{module}.py")
    mirrored = {name: text for name, text in want.items() if name not in NUMPY_ALONE[module]}
    got = public_signatures(framework / f"{module}.py")
    assert list(got.items()) == list(mirrored.items())


@pytest.mark.parametrize("module", ["arrays", "backend", "data", "inference", "training"])
def test_both_frameworks_side_by_side(module):
    torch = public_signatures(TORCH / f"{module}.py")
    tensorflow = public_signatures(TENSORFLOW / f"{module}.py")
    for name in TORCH_ALONE.get(module, ()):
        torch.pop(name)
    for name in TENSORFLOW_ALONE.get(module, ()):
        tensorflow.pop(name)
    assert list(tensorflow) == list(torch)
    for name, parameters in torch.items():
        # dtypes and devices have other names there, but parameters are the same
        assert tensorflow[name] == parameters, name


def test_the_same_files():
    files = {path.name for path in TENSORFLOW.glob("*.py")}
    assert files <= {path.name for path in TORCH.glob("*.py")}


def test_numbers_are_imported():
    """No constant of the model is written down a second time."""
    for framework in (TORCH, TENSORFLOW):
        for module in ("physics", "network", "losses", "model"):
            tree = ast.parse((framework / f"{module}.py").read_text())
            numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            repeated = numbers & {1e-3, 1e-12, 1e-7, 0.9, 0.999, 1e-9}
            assert not repeated, f"{framework.name}/{module}.py: {repeated}"
