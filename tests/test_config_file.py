"""Configurations as YAML files."""

import dataclasses
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ptycho_backends.config import (
    ExecutionConfig,
    FinetuneStage,
    InferenceConfig,
    ModelConfig,
    TrainingConfig,
)
from ptycho_backends.config_file import load_config, save_config
from ptycho_backends.errors import ConfigError, OutputError
from ptycho_backends.finetuning import PARTS

POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
SHARE = st.floats(0, 1)
COUNT = st.integers(1, 2**40)
# surrogates are no text; a path holds no NUL
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
PATH = TEXT.map(Path) | st.sampled_from(
    ["1e9", "None", "null", "12:30", "2024-01-01", "yes", "# a", "~"]
).map(Path)

models = st.builds(
    ModelConfig,
    N=st.sampled_from([0, 64, 128, 256]),
    gridsize=st.integers(1, 5),
    amp_activation=st.sampled_from(["sigmoid", "swish", "silu", "relu"]),
    probe_mask=st.booleans(),
    probe_scale=POSITIVE,
    gaussian_smoothing_sigma=SHARE,
)
trainings = st.builds(
    TrainingConfig,
    model=models,
    train_data_file=st.none() | PATH,
    batch_size=st.sampled_from([1, 2, 64]),
    mae_weight=SHARE,
    nphotons=POSITIVE,
    n_groups=COUNT,
    n_subsample=st.none() | COUNT,
    output_dir=PATH,
    backend=st.sampled_from(["torch", "tensorflow", "1e3", "none", "None", "on"]),
)
inferences = st.builds(InferenceConfig, model=models, model_path=st.none() | PATH, debug=st.booleans())
executions = st.builds(
    ExecutionConfig,
    learning_rate=POSITIVE,
    gradient_clip_val=st.none() | POSITIVE,
    logger_backend=st.sampled_from(["csv", "none", None]),
    devices=COUNT,
    finetune_stages=st.lists(
        st.builds(
            FinetuneStage,
            epochs=COUNT,
            rates=st.dictionaries(st.sampled_from(PARTS), POSITIVE, min_size=1),
        ),
        max_size=3,
    ).map(tuple),
)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configurations") / "config.yaml"


def types(config: Any) -> dict[str, Any]:
    return {name: types(v) if dataclasses.is_dataclass(v) else type(v) for name, v in vars(config).items()}


@example(config=TrainingConfig(train_data_file=Path("a\nb: # '"), output_dir=Path("\u2028\ufeff ")))
@given(config=trainings | inferences | executions | models)
def test_what_was_saved_comes_back_with_exact_types(scratch: Path, config: Any) -> None:
    save_config(config, scratch)
    loaded = load_config(scratch, type(config))
    assert loaded == config
    assert types(loaded) == types(config)


def test_a_saved_file_teaches_and_is_plain_yaml(tmp_path: Path) -> None:
    path = save_config(TrainingConfig(), tmp_path / "config.yaml")
    lines = path.read_text().splitlines()
    assert "  gridsize: 1  # a group holds gridsize**2 neighbouring positions" in lines
    assert (
        "nphotons: null  # mean photons in a pattern, which sets the intensity scale; None: measured on the scan"
        in lines
    )
    assert not [line for line in lines if line.startswith("n_images")]
    plain = yaml.safe_load(path.read_text())
    assert plain["model"]["N"] == 64
    assert plain["train_data_file"] is None


def load(path: Path, text: str, cls: type = TrainingConfig) -> Any:
    path.write_text(text)
    return load_config(path, cls)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e9", 1e9),
        ("1E+9", 1e9),
        ("2.5e-3", 2.5e-3),
        (".5e6", 5e5),
        ("1.e3", 1e3),
        ("+1e3", 1e3),
        ("7", 7.0),
    ],
)
def test_numbers_are_read_as_people_write_them(tmp_path: Path, written: str, meant: float) -> None:
    config = load(tmp_path / "c.yaml", f"nphotons: {written}")
    assert config.nphotons == meant
    assert type(config.nphotons) is float


@pytest.mark.parametrize("written", ["1e3", "1000.0", "1000", "1_000"])
def test_whole_numbers_may_be_written_with_an_exponent(tmp_path: Path, written: str) -> None:
    config = load(tmp_path / "c.yaml", f"n_groups: {written}\nn_subsample: {written}")
    assert (config.n_groups, config.n_subsample) == (1000, 1000)
    assert type(config.n_groups) is int


def test_none_is_understood_in_either_language(tmp_path: Path) -> None:
    config = load(tmp_path / "c.yaml", "train_data_file: None\ntest_data_file: null\nn_subsample:\n")
    assert (config.train_data_file, config.test_data_file, config.n_subsample) == (None, None, None)


def test_all_problems_are_told_at_once_with_file_place_and_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    with pytest.raises(ConfigError) as caught:
        load(
            path,
            """
            nephochs: 3
            gridsize: 2
            batch_size: 3
            output_dir: 5
            nphotons: '1e9'
            model:
              grid_size: 2
              N: 63
              object_big: maybe
              offset: [4]
            """,
        )
    text = str(caught.value)
    assert text.startswith(f"{path}: TrainingConfig: ")
    for part in (
        "nephochs: unknown; did you mean 'nepochs'?",
        "gridsize: unknown; it belongs under 'model' (model.gridsize)",
        "batch_size: got 3, want a power of two >= 1",
        "output_dir: got 5, want a path",
        "nphotons: got '1e9', want a number > 0",
        "model.grid_size: unknown; did you mean 'gridsize'?",
        "model.N: got 63, want one of 64, 128, 256",
        "model.object_big: got 'maybe', want True or False",
        "model.offset: got a list, want an integer >= 0",
    ):
        assert part in text
    assert text.count("got ") == 6


def test_a_misspelt_model_field_at_the_top_is_found_in_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"probe_maks: unknown; did you mean 'probe_mask' under model\?"):
        load(tmp_path / "c.yaml", "probe_maks: true")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds nothing, want a mapping"),
        ("# only a comment\n", "holds nothing, want a mapping"),
        ("- 1\n- 2\n", "holds a list, want a mapping"),
        ("just text", "holds 'just text', want a mapping"),
        ("nepochs: 1\nnepochs: 2\n", "line 2: 'nepochs' is given twice"),
        ("model:\n  N: 64\n  N: 128\n", "line 3: 'N' is given twice"),
        ("nepochs: [1\n", "line 2: "),
        ("model: 3\n", "model: got 3, want a mapping of the fields of ModelConfig"),
        ("model:\n", "model: got None, want a mapping of the fields of ModelConfig"),
        ("output_dir: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        ("? [1, 2]\n: 3\n", "line 1: found unhashable key"),
        ("1: 2\n", "1: unknown; did you mean"),
        ("output_dir: 2024-13-45\n", "not readable as YAML"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("[" * 5000, "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "broken.yaml"
    with pytest.raises(ConfigError) as caught:
        load(path, text)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read \(No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"nepochs: \xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bytes\.yaml: not readable as YAML"):
        load_config(tmp_path / "bytes.yaml")


@given(content=st.binary(max_size=60))
def test_any_bytes_give_a_configuration_or_a_config_error(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content)
    with suppress(ConfigError):
        assert isinstance(load_config(scratch), TrainingConfig)


def test_an_invalid_configuration_is_not_saved(tmp_path: Path) -> None:
    path = save_config(TrainingConfig(), tmp_path / "config.yaml")
    before = path.read_bytes()
    config = TrainingConfig()
    config.nphotons = math.nan
    with pytest.raises(ConfigError, match="nphotons: got nan"):
        save_config(config, path)
    assert path.read_bytes() == before


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save_config(TrainingConfig(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_saving_changes_nothing_in_the_configuration(tmp_path: Path) -> None:
    config = TrainingConfig()
    config.model.amp_activation = "silu"
    save_config(config, tmp_path / "config.yaml")
    assert config.model.amp_activation == "silu"
    assert load_config(tmp_path / "config.yaml").model.amp_activation == "swish"


def test_n_images_in_a_file_is_deprecated(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="use n_groups"):
        assert load(tmp_path / "c.yaml", "n_images: 9").n_groups == 9


def test_stages_are_a_list_of_mappings(tmp_path: Path) -> None:
    path = tmp_path / "execution.yaml"
    written = "finetune_stages:\n- epochs: 2\n  rates: {decoder: 0.1, phase_head: 1}\n"
    execution = load(path, written, ExecutionConfig)
    assert execution.finetune_stages == (FinetuneStage(2, {"decoder": 0.1, "phase_head": 1.0}),)
    save_config(execution, path)
    assert "finetune_stages: [{epochs: 2, rates: {decoder: 0.1, phase_head: 1.0}}]  # " in path.read_text()
    with pytest.raises(ConfigError, match=r"learning_rate: got 0.*finetune_stages\[0\]: epochs: got 0"):
        load(path, "learning_rate: 0\n" + written.replace("epochs: 2", "epochs: 0"), ExecutionConfig)
