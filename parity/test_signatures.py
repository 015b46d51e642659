"""Mirrors mirror: the same files, functions, classes and methods in every framework. Parses; imports no framework."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "ptycho_backends" / "reference"
TORCH = REPOSITORY / "ptycho_torch" / "backend"
TENSORFLOW = REPOSITORY / "ptycho_backends" / "tensorflow"
FILES = {
    "arrays", "backend", "correction", "data", "device", "export", "inference", "layers", "losses", "model", "module",
    "network", "physics", "process_group", "refinement", "training", "unrolled",
}  # fmt: skip

# Plain NumPy that the frameworks call as it is: nothing in it needs a gradient.
NUMPY_ALONE = {
    "physics": {"central_box", "smoothing_weights", "extract_patches"},
    "network": {"border_mask"},
    "losses": set(),
    "refinement": set(),
    # where a canvas is cut into tiles
    "correction": {"tiles"},
    "unrolled": set(),
}

# Functions of the mirrors beyond the reference's: the whole work of a backend.
BEYOND = {"refinement": {"refine"}}

# Classes that users know under a name of their framework.
SAME_CLASSES = {
    "TorchBackend": "Backend",
    "TensorFlowBackend": "Backend",
    "PtychoDataModule": "Data",
    "PtychoData": "Data",
}

LIGHTNING = "Lightning calls it, or hands it to callers"
LOOP = "the loop over epochs is this library's, where torch has Lightning's"
NO_GRAPH = "there is no graph that would keep a constant"
GRAPH = "a graph is compiled for the types of its inputs"
LAYOUT = "its network is channels-last, and the physics is not"
MIXED = "mixed precision is a context in torch, and a type in TensorFlow"
MODULES = "modules compute in torch, and only hold variables in TensorFlow"
OPTIMISER = "torch's Adam is Algorithm 1; Keras's is not, so TensorFlow has one of its own, in adam.py"
TAPE = "gradients are recorded on a tape, for the variables that it is given"
POSSIBLE = "TensorFlow refuses what is not possible with the device; torch has compilers and more precisions"
COPIES = "TensorFlow schedules its own copies between host and device"
REPLICAS = "devices are replicas of one process in TensorFlow, and processes of their own in torch"
TRACED = (
    "torch traces a module in train or eval mode; a tf.Module holds the signature that it is compiled for"
)
DEFAULTS = "only PyTorch lets a program set the device and the type of new tensors"
AGAIN = "graphs cost seconds, so a module is used again for the next model of its configuration"
BATCHES = "measured with PyTorch alone"

# Differences that the frameworks force, `{file: {name: reason}}`; of a class, all of its methods.
DIFFERENT = {
    "arrays": {"constant": NO_GRAPH, "batch_signature": GRAPH, "channels_first": LAYOUT},
    "backend": {"Backend.__init__": LIGHTNING},
    "data": {"Data": LIGHTNING},
    "device": {
        "autocast": MIXED,
        "network_dtype": MIXED,
        "strategy": REPLICAS,
        "device_kind": REPLICAS,
        "on_device": COPIES,
        "array_later": COPIES,
        "own_defaults": DEFAULTS,
        "require_possible": POSSIBLE,
    },
    "export": {"NetworkAndPhysics.__init__": TRACED},
    "inference": {"host_batch": BATCHES, "gpu_batch": BATCHES},
    "layers": {"Layer": MODULES, "attach_layers": MODULES},
    "model": {
        "PtychoModel.__init__": MIXED,
        "PtychoModel.freeze": TAPE,
        "PtychoModel.loss_and_gradients": TAPE,
        "PtychoModel.extra_repr": MODULES,
        "PtychoModel.set_weights": AGAIN,
        "adam": OPTIMISER,
    },
    "module": {
        "PtychoModule.__init__": LIGHTNING,
        "PtychoModule.training_step": LIGHTNING,
        "PtychoModule.validation_step": LIGHTNING,
        "PtychoModule.configure_optimizers": LIGHTNING,
        "PtychoModule.on_before_optimizer_step": LIGHTNING,
        "PtychoModule.on_fit_start": LIGHTNING,
        "PtychoModule.on_train_epoch_start": LIGHTNING,
        "PtychoModule.on_train_batch_start": LIGHTNING,
        "PtychoModule.on_train_epoch_end": LIGHTNING,
        "PtychoModule.on_save_checkpoint": LIGHTNING,
        "PtychoModule.start": AGAIN,
        "PtychoModule.validation_loss": LOOP,
        "PtychoModule.between_steps": LOOP,
        "PtychoModule.start_epoch": LOOP,
        "PtychoModule.finish_epoch": LOOP,
    },
    "network": {"ModuleWeights": MODULES},
    "process_group": {
        "working_together": REPLICAS,
        "help_first_process": REPLICAS,
        "strategy_of": REPLICAS,
        "own_strategy_of": REPLICAS,
        "require_devices": REPLICAS,
        "own_part": REPLICAS,
        "all_bounds": REPLICAS,
        "everywhere": REPLICAS,
    },
    "training": {"TrainingRun": LIGHTNING, "Extensions": LIGHTNING, "train_extended": LIGHTNING},
}


def parameters(node: ast.FunctionDef) -> str:
    """The parameters of a function; annotations differ between frameworks and are left out."""
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    return ast.unparse(node.args).replace("torch.float", "float").replace("tf.float", "float")


def public_signatures(path: Path) -> dict[str, str]:
    """`{name: parameters}` of every public function, in order."""
    return {
        node.name: parameters(node)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def public_methods(path: Path) -> dict[str, str]:
    """`{class.method: parameters}` of every public class, its initialisation included; and `{class: ''}`."""
    methods = {}
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
            continue
        kind = SAME_CLASSES.get(node.name, node.name)
        methods[kind] = ""
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and re.match(r"__init__$|(?!_)", method.name):
                methods[f"{kind}.{method.name}"] = parameters(method)
    return methods


def without(signatures: dict[str, str], names: set[str]) -> dict[str, str]:
    return {
        name: text
        for name, text in signatures.items()
        if name not in names and name.partition(".")[0] not in names
    }


@pytest.mark.parametrize("framework", [TORCH, TENSORFLOW], ids=["torch", "tensorflow"])
@pytest.mark.parametrize("module", sorted(NUMPY_ALONE))
def test_mirrors_of_the_reference(framework, module):
    want = public_signatures(REFERENCE / f"{module}.py")
    mirrored = {name: text for name, text in want.items() if name not in NUMPY_ALONE[module]}
    got = without(public_signatures(framework / f"{module}.py"), BEYOND.get(module, set()))
    assert list(got.items()) == list(mirrored.items())


@pytest.mark.parametrize("framework", [TORCH, TENSORFLOW], ids=["torch", "tensorflow"])
def test_methods_of_the_refiner_mirror_the_reference(framework):
    want, got = (public_methods(folder / "refinement.py") for folder in (REFERENCE, framework))
    # a device, a precision and other processes are a framework's
    initialised = got.pop("Refiner.__init__")
    assert initialised == want.pop("Refiner.__init__") + ", execution, processes=None"
    assert got == want


@pytest.mark.parametrize("module", sorted(FILES))
def test_both_frameworks_side_by_side(module):
    allowed = set(DIFFERENT.get(module, ()))
    torch, tensorflow = (
        without(public_signatures(framework / f"{module}.py"), allowed) for framework in (TORCH, TENSORFLOW)
    )
    assert list(tensorflow.items()) == list(torch.items())
    torch, tensorflow = (
        without(public_methods(framework / f"{module}.py"), allowed) for framework in (TORCH, TENSORFLOW)
    )
    assert tensorflow == torch


@pytest.mark.parametrize("module", sorted(DIFFERENT))
def test_every_exception_is_needed(module):
    """Nothing that is the same in both, or in neither, is excepted."""
    torch, tensorflow = (
        public_signatures(framework / f"{module}.py") | public_methods(framework / f"{module}.py")
        for framework in (TORCH, TENSORFLOW)
    )
    for name in DIFFERENT[module]:
        one, other = (
            {key: text for key, text in names.items() if key == name or key.startswith(f"{name}.")}
            for names in (torch, tensorflow)
        )
        assert one != other, name


def test_the_same_files():
    # ONNX has no complex tensors, so 'unrolled' is written down in real ones for it; TensorFlow's formats need none
    # TensorFlow compiles its steps into graphs, and has an Adam of its own: torch's is Algorithm 1, Keras's is not
    beyond = {TORCH: {"real_unrolled"}, TENSORFLOW: {"compiling", "adam"}}
    for framework, more in beyond.items():
        assert {path.stem for path in framework.glob("*.py")} == FILES | {"__init__"} | more


def test_numbers_are_imported():
    """No constant of the model is written down a second time."""
    for framework in (TORCH, TENSORFLOW):
        for module in ("physics", "network", "losses", "model", "refinement", "correction", "unrolled"):
            tree = ast.parse((framework / f"{module}.py").read_text())
            numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            repeated = numbers & {1e-3, 1e-12, 1e-7, 0.9, 0.999, 1e-9}
            assert not repeated, f"{framework.name}/{module}.py: {repeated}"
