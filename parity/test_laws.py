"""The conformance kit on the built-in backends: laws and promises that need no second framework."""

import pytest

from ptycho_backends.protocol import Backend
from ptycho_backends.registry import get_backend
from ptycho_backends.testing.contract import BackendContract


class TestContract(BackendContract):
    """On each backend of this run in turn."""

    @pytest.fixture
    def backend(self, request: pytest.FixtureRequest) -> Backend:
        return get_backend(request.param)

    # test_training.py measures the same of all backends at once
    test_training_stitching_and_archives = None
    # as test_refinement.py and test_verbs.py do
    test_refinement = None
    test_verbs = None
