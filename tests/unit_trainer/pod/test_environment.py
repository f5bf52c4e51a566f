"""What the libraries find in the environment, and how many cores are ours."""

import os
from pathlib import Path
from types import ModuleType

import pytest

from finetune_api.plan import PlannedResources
from finetune_trainer.pod.environment import count_cpus, go_offline, prepare_environment


def environment_of(gpus: int) -> dict[str, str]:
    environ = {"UNSLOTH_FORCE_CPU": "1"} if gpus else {}
    prepare_environment(PlannedResources(gpus=gpus), work=Path("/work"), environ=environ)
    return environ


def test_a_plan_without_gpus_asks_for_the_cpu_backend() -> None:
    environ = environment_of(0)
    assert environ["UNSLOTH_FORCE_CPU"] == "1"
    assert environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_pod_that_lost_its_gpu_never_trains_on_the_cpu() -> None:
    environ = environment_of(1)
    assert environ["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
    assert "UNSLOTH_FORCE_CPU" not in environ


def test_nothing_is_sent_home_and_all_is_written_below_the_scratch_volume() -> None:
    environ = environment_of(0)
    assert environ["UNSLOTH_DISABLE_STATISTICS"] == "1"
    assert environ["DISABLE_KUBEFLOW_INTEGRATION"] == "TRUE"
    places = [value for value in environ.values() if value.startswith("/")]
    assert len(places) == 4
    assert all(place.startswith("/work/caches/") for place in places)


def test_after_the_downloads_every_library_is_offline() -> None:
    environ: dict[str, str] = {}
    hub = ModuleType("huggingface_hub.constants")
    go_offline(environ, modules={hub.__name__: hub})
    assert vars(hub)["HF_HUB_OFFLINE"] is True
    assert set(environ) == {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}


CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("content", "cores"),
    [
        pytest.param("max 100000\n", CORES, id="no limit"),
        pytest.param("100000 100000\n", 1, id="one core"),
        pytest.param("20000 100000\n", 1, id="a fifth of a core"),
        pytest.param("99900000 100000\n", CORES, id="more than the node has"),
        pytest.param("strange\n", CORES, id="not understood"),
    ],
)
def test_the_containers_limit_counts(content: str, cores: int, tmp_path: Path) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(content)
    assert count_cpus(path) == cores


def test_without_a_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert count_cpus(tmp_path / "absent") == CORES
