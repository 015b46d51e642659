"""The conformance kit, proved on a backend that lives outside the package and registers by entry point."""

import json
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from typer.testing import CliRunner

pytest.importorskip("hypothesis", reason="the kit's own dependency")

from ptycho_backends.cli.commands import app
from ptycho_backends.errors import BackendUnavailableError, ConfigError, UnknownBackendError
from ptycho_backends.registry import backend_names, get_backend
from ptycho_backends.testing import agreement, command, parity
from ptycho_backends.testing.cases import Case, draw_case
from ptycho_backends.testing.contract import CASES, SCANS, VERBS, BackendContract

TOY = Path(__file__).resolve().parents[1] / "toy_backend"
SMALL = [CASES[0], *(case for case in CASES if case.N < 64)]


@pytest.fixture(autouse=True)
def toy_installed(monkeypatch):
    """As if the toy's distribution were installed: its `dist-info` lies on the path."""
    monkeypatch.syspath_prepend(str(TOY))


class TestToy(BackendContract):
    """All that a third party writes."""

    backend_name: ClassVar[str] = "toy"

    @pytest.mark.slow
    @pytest.mark.parametrize("scan", SCANS, ids=repr)
    def test_training_stitching_and_archives(self, backend, scan):
        super().test_training_stitching_and_archives(backend, scan)

    # those of N = 64 and more take the toy, which is NumPy, as long as all others together
    @pytest.mark.parametrize("case", SMALL, ids=repr)
    def test_gradients_are_the_slopes_of_the_loss(self, backend, case):
        super().test_gradients_are_the_slopes_of_the_loss(backend, case)

    @pytest.mark.parametrize("case", SMALL, ids=repr)
    def test_float32_gradient_is_as_good_as_float32_allows(self, backend, case):
        super().test_float32_gradient_is_as_good_as_float32_allows(backend, case)

    # the other cases are those of N = 64, which take the toy half a minute each
    @pytest.mark.slow
    @pytest.mark.parametrize("case", VERBS[:4], ids=repr)
    def test_verbs(self, backend, case):
        super().test_verbs(backend, case)


def test_the_toy_is_found_by_its_entry_point():
    assert "toy" in backend_names()
    assert get_backend("TOY").name == "toy"


def test_a_backend_that_does_not_load_fails(monkeypatch, tmp_path):
    class TestMissing(BackendContract):
        backend_name = "no-such-backend"

    fixture = BackendContract.backend
    with pytest.raises(pytest.fail.Exception, match="no-such-backend"):
        getattr(fixture, "_get_wrapped_function", lambda: fixture)()(TestMissing())
    with pytest.raises(UnknownBackendError):
        parity.run(["no-such-backend"], cases=1)
    monkeypatch.setitem(sys.modules, "toy_ptycho.gradients", None)
    monkeypatch.delitem(sys.modules, "toy_ptycho.backend", raising=False)
    with pytest.raises(BackendUnavailableError, match="toy"):
        parity.run(["toy"], cases=1)


def test_the_command_reports_and_passes(tmp_path):
    lines = []
    asked = {"cases": 1, "seed": 9, "part": "arrays", "output_dir": tmp_path, "say": lines.append}
    assert command.parity_command(["toy"], **asked) == 0
    told = json.loads((tmp_path / "parity.json").read_text())
    assert told["passed"]
    assert told["cases_done"] == 1
    assert {row["quantity"] for row in told["quantities"]} >= {
        "object, float64",
        "round trip",
        "grouped data",
    }
    page = (tmp_path / "parity.html").read_text()
    assert "Parity of toy" in page
    assert "http" not in page
    assert "<script" not in page
    assert any("all within" in line for line in lines)


def test_a_wrong_backend_fails(monkeypatch, tmp_path):
    from ptycho_backends.reference import model as reference

    class WrongBackend(type(get_backend("toy"))):
        """Half the amplitude."""

        def forward(self, config, weights, batch, *, execution=None):
            right = reference.predict(config, weights, batch)
            return type(right)(right.object, right.amplitude / 2, right.intensity)

        def gradients(self, config, weights, batch, *, execution=None):
            raise ArithmeticError("no gradient today")

    monkeypatch.setattr(parity, "get_backends", lambda names: dict.fromkeys(names, WrongBackend()))
    lines = []
    assert command.parity_command(["toy"], cases=1, output_dir=tmp_path, say=lines.append) == 1
    told = json.loads((tmp_path / "parity.json").read_text())
    assert not told["passed"]
    wrong = {row["quantity"]: row for row in told["quantities"] if row["exceeded"]}
    assert wrong["amplitude, float64"]["worst"] == pytest.approx(0.5)
    assert wrong["amplitude, float64"]["worst_case"] == repr(draw_case(0))
    assert any("no gradient today" in crash["error"] for crash in told["crashes"])
    assert "Beyond their allowance" in (tmp_path / "parity.html").read_text()


def test_ctrl_c_keeps_what_there_is(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "measure", interrupted)
    assert command.parity_command(["toy"], cases=5, output_dir=tmp_path, say=lambda line: None) == 130
    told = json.loads((tmp_path / "parity.json").read_text())
    assert told["interrupted"]
    assert (told["cases_asked"], told["cases_done"], told["passed"]) == (5, 0, False)


def test_on_the_command_line(tmp_path):
    asked = ["parity", "toy", "--cases", "1", "-o", str(tmp_path / "report")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "all within their allowances" in result.output
    assert (tmp_path / "report" / "parity.html").is_file()
    result = CliRunner().invoke(app, ["parity", "toy", "--profile", "slow"])
    assert result.exit_code == 2
    assert "error: profile: got 'slow', want one of fast, ci, nightly" in result.output
    result = CliRunner().invoke(app, ["parity", "no-such-backend"])
    assert result.exit_code == 2
    assert "got 'no-such-backend', want one of" in result.output


def test_bad_arguments_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"cases: got 0.*profile: got 'slow'"):
        command.parity_command(["toy"], cases=0, profile="slow", output_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"part: got 'all of it'.*device: got 'abacus'"):
        command.parity_command(["toy"], part="all of it", device="abacus", output_dir=tmp_path)
    with pytest.raises(ConfigError, match="want a call as reports print it"):
        command.parity_command(["toy"], case="open('x')", output_dir=tmp_path)
    with pytest.raises(ConfigError, match="each once"):
        command.parity_command(["toy", "toy"], output_dir=tmp_path)
    with pytest.raises(ConfigError, match="at least one name"):
        command.parity_command([], output_dir=tmp_path)


# --- agreement and cases


def test_disagreements_say_where_and_by_how_much():
    import numpy as np

    want = np.array([[1.0, 2.0], [3.0, 4.0]])
    got = want.copy()
    got[1, 0] = 3.5
    with pytest.raises(
        agreement.Disagreement, match=r"thing: deviates by 0\.0913.*\[1, 0\].*got 3\.5, want 3"
    ):
        agreement.assert_agrees("thing", got, want, "outputs, float64")
    with pytest.raises(
        agreement.Disagreement, match=r"1 of 4 values are NaN or infinite, the first at \[0, 1\]"
    ):
        agreement.assert_agrees("thing", np.where(want == 2, np.nan, want), want, "outputs, float64")
    with pytest.raises(agreement.Disagreement, match=r"got shape \(4,\), want \(2, 2\)"):
        agreement.assert_agrees("thing", want.ravel(), want, "outputs, float64")
    with pytest.raises(agreement.Disagreement, match="got dtype complex128"):
        agreement.assert_agrees("thing", want + 0j, want, "outputs, float64")
    with pytest.raises(agreement.Disagreement, match="want"):
        agreement.assert_all_agree("thing", {"a": want}, {"b": want}, "outputs, float64")
    agreement.assert_agrees("nothing", np.zeros(3), np.zeros(3), "round trip")
    assert agreement.deviation(np.full(3, 1e-30), np.zeros(3)) == np.inf


def test_cases_print_as_what_makes_them():
    for seed in range(40):
        case = draw_case(seed)
        assert eval(repr(case), {"Case": Case}) == case
    assert (
        draw_case(5).batch.diffraction_amplitude.tobytes()
        == draw_case(5).batch.diffraction_amplitude.tobytes()
    )
    assert all(allowance.reason for allowance in agreement.ALLOWANCES.values())
