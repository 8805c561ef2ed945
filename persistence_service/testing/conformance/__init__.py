"""The conformance suite of storage backends: what the service relies on, as tests that a plugin's author can run.

A test module of the plugin::

    import pytest
    from persistence_service.testing.conformance import BackendConformance
    from my_plugin import MyBackend

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def new_backend(self, tmp_path):
            return lambda: MyBackend(tmp_path / "data")

A backend with optional powers inherits their suites too: `SizesConformance` for `SizeReporter`.

It needs pytest, pytest-asyncio with `asyncio_mode = "auto"`, and hypothesis. For readable failures put
`pytest.register_assert_rewrite("persistence_service.testing.conformance")` into `conftest.py`, before any import of it.
"""

from persistence_service.testing.conformance.deleting import DeletingConformance
from persistence_service.testing.conformance.life import LifeConformance
from persistence_service.testing.conformance.merging import MergingConformance
from persistence_service.testing.conformance.querying import QueryingConformance
from persistence_service.testing.conformance.sizes import SizesConformance
from persistence_service.testing.conformance.transactions import TransactionConformance
from persistence_service.testing.conformance.values import ValueConformance
from persistence_service.testing.conformance.writing import WritingConformance

__all__ = ["BackendConformance", "SizesConformance"]


class BackendConformance(
    LifeConformance,
    ValueConformance,
    WritingConformance,
    MergingConformance,
    QueryingConformance,
    DeletingConformance,
    TransactionConformance,
):
    """Subclass it, call the subclass `Test…`, and override the fixture `new_backend`."""
