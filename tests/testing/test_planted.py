"""Faults planted into the verbs of a good backend are noticed, and the text names the verb and the way to run it alone.

A handful of each verb; `nox -s mutants` plants them all.
"""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the kit's own dependency")

from ptycho_backends.registry import get_backend
from ptycho_backends.testing import command, parity
from ptycho_backends.testing.agreement import Disagreement
from ptycho_backends.testing.contract import BackendContract
from ptycho_backends.testing.faults import FAULTS
from ptycho_backends.testing.planted import Planted
from ptycho_backends.testing.verb_cases import VERBS
from ptycho_backends.testing.verbs import measure_verbs, require_verbs

TOY = Path(__file__).resolve().parents[1] / "toy_backend"


@pytest.fixture(scope="module", autouse=True)
def toy():
    """As if the toy's distribution were installed."""
    sys.path.insert(0, str(TOY))
    yield get_backend("toy")
    sys.path.remove(str(TOY))


@pytest.mark.parametrize("number", [0, 1])
def test_the_good_backend_passes(toy, number):
    case = VERBS[number]
    require_verbs(case, measure_verbs(case, {"toy": toy}))


# the number of the case in VERBS that notices each soonest
NOTICED = {
    "train: learning rate ignored": 0,
    "train: accumulation ignored": 1,
    "train: probe trained though told not to": 2,
    "train: first weights returned in float32": 2,
    "train: validation judged on training groups": 0,
    "train: supervised by the conjugate": 2,
    "resume: stages ignored": 2,
    "resume: second moments forgotten": 0,
    "resume: changes the model it was given": 0,
    "predict: wrong in float32": 0,
    "infer: one canvas for a batch of 64 and more": 0,
    "infer: normalised by the training scan": 0,
    "infer: stitching size ignored": 0,
    "train_step: start returned in float32": 1,
    "refine: model ignored": 0,
}


@pytest.mark.parametrize("name", NOTICED)
def test_a_fault_is_noticed(toy, name):
    fault, case = FAULTS[name], VERBS[NOTICED[name]]
    with pytest.raises(Disagreement) as raised:
        require_verbs(case, measure_verbs(case, {"toy": Planted(toy, fault)}))
    text = str(raised.value)
    assert f"toy: {fault.verb}" in text
    assert f'ptycho-backends parity toy --case "{case!r}"' in text
    assert "allowed are" in text


def test_the_kit_names_the_verb(toy):
    wrong = Planted(toy, FAULTS["infer: last, smaller batch dropped"])
    with pytest.raises(Disagreement, match=r"toy: infer in float64: image.*\n  case: VerbCase"):
        BackendContract().test_verbs(wrong, VERBS[0])


def test_the_command_names_the_verb(toy, monkeypatch, tmp_path):
    wrong = Planted(toy, FAULTS["resume: moments forgotten"])
    monkeypatch.setattr(parity, "get_backends", lambda names: {"toy": wrong})
    lines = []
    asked = {"part": "verbs", "cases": 1, "output_dir": tmp_path, "say": lines.append}
    assert command.parity_command(["toy"], **asked) == 1
    told = json.loads((tmp_path / "parity.json").read_text())
    assert told["verbs_done"] == 1
    assert any("toy: resume: weights deviates" in line and "--case" in line for line in told["failures"])
    # and the case that is named, alone
    assert command.parity_command(["toy"], case=repr(VERBS[0]), output_dir=tmp_path, say=lines.append) == 1
    page = (tmp_path / "parity.html").read_text()
    assert page.count("<polyline") == 4
    assert "data:image/png;base64," in page
    assert "reference, at most" in page


def test_every_fault_names_its_verb():
    verbs = {"train", "resume", "predict", "infer", "refine", "forward", "loss", "train_step"}
    assert len(FAULTS) >= 60
    for name, fault in FAULTS.items():
        assert name.startswith(f"{fault.verb}: ")
        assert fault.verb in verbs
