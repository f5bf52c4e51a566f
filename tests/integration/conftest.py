"""What the tests with an operator on a real API server share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.fixtures import Lab
from tests.integration.definition import apply_definition
from tests.integration.operator_process import OperatorProcess

StartOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def definition(control_plane: Lab) -> None:
    """The resource definition."""
    apply_definition(control_plane)


@pytest.fixture
def start_operator(
    control_plane: Lab, namespace: str, tmp_path: Path, definition: None
) -> Iterator[StartOperator]:
    """Starts replicas and ends them after the test."""
    started: list[OperatorProcess] = []

    def start(*, ready: bool = True, **more: Any) -> OperatorProcess:
        defaults: dict[str, Any] = {
            "kubeconfig": control_plane.kubeconfig,
            "namespace": namespace,
        }
        log = tmp_path / f"operator-{len(started)}.log"
        operator = OperatorProcess(log=log, **(defaults | more))
        started.append(operator)
        operator.start()
        if ready:
            operator.wait_until_ready()
        return operator

    yield start
    for operator in started:
        operator.kill()
