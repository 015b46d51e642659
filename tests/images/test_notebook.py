"""Values in a notebook."""

import pytest
from oracle_backend import OracleBackend

from ptycho_backends.config import ModelConfig, TrainingConfig
from ptycho_backends.scans.simulate import simulate_star
from ptycho_backends.workflows.result import RunResult


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    scan = simulate_star(32, 30, seed=0)
    config = TrainingConfig(model=ModelConfig(N=32, architecture="unrolled", gridsize=1), nepochs=3)
    model = OracleBackend().train(scan, config)
    image = OracleBackend().refine(None, scan)
    folder = tmp_path_factory.mktemp("run")
    return {
        "scan": scan,
        "model": model,
        "image": image,
        "run": RunResult("oracle", folder, {}, model, image),
    }


def test_an_image_is_shown_by_its_parts(made):
    page = made["image"]._repr_html_()
    assert page.count("data:image/png;base64,") == 3
    assert "Reconstruction(" in page
    # nothing is fetched
    assert "http" not in page


def test_a_model_is_shown_by_its_losses(made):
    page = made["model"]._repr_html_()
    assert "TrainedModel(N=32" in page
    assert page.count("<polyline") == 2


def test_the_result_of_a_verb_shows_its_image(made):
    page = made["run"]._repr_html_()
    assert made["image"]._repr_html_().removeprefix("<div>") in page


@pytest.mark.parametrize("name", ["image", "model", "run"])
def test_everything_has_a_figure(made, name, tmp_path):
    figure = made[name].plot(**({} if name == "model" else {"scan": made["scan"]}))
    figure.savefig(tmp_path / "figure.png")
    assert figure._repr_png_().startswith(b"\x89PNG")
    titles = {axes.get_title() for axes in figure.axes}
    assert name == "model" or {"amplitude", "phase", "probe"} <= titles
