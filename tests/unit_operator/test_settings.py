"""Settings: read from the environment, refused in one sentence that names the variable."""

import pytest

from finetune_operator.errors import SettingsError
from finetune_operator.settings import Settings, load_settings
from finetune_operator.startup import build_context, build_status_url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The smallest environment."""
    monkeypatch.setenv("FINETUNE_TRAINER_IMAGE", "trainer:1")
    return monkeypatch


def test_the_trainer_image_is_all_that_must_be_set() -> None:
    assert load_settings().trainer_image == "trainer:1"


@pytest.mark.parametrize(
    ("text", "names"),
    [("", ()), ("a", ("a",)), ("a, b,", ("a", "b"))],
    ids=["empty is all", "one", "several"],
)
def test_lists_are_separated_by_commas(
    environment: pytest.MonkeyPatch, text: str, names: tuple[str, ...]
) -> None:
    environment.setenv("FINETUNE_NAMESPACES", text)
    assert load_settings().namespaces == names


def test_maps_are_json(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FINETUNE_TRAINER_ENV", '{"HF_ENDPOINT": "http://hub"}')
    assert load_settings().trainer_env == {"HF_ENDPOINT": "http://hub"}


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("WORKERS", "many", "FINETUNE_WORKERS is 'many': Input should be a valid integer"),
        ("WORKERS", "0", "FINETUNE_WORKERS is '0': Input should be greater than or equal to 1"),
        ("LOG_FORMAT", "xml", "FINETUNE_LOG_FORMAT is 'xml': Input should be 'json' or 'console'"),
        ("TRAINER_IMAGE", "", "FINETUNE_TRAINER_IMAGE is ''"),
        ("API_BURST", "10", "API_BURST must be at least API_QPS"),
        (
            "RUN_AS_USER",
            "0",
            "FINETUNE_RUN_AS_USER is '0': Input should be greater than or equal to 1",
        ),
        ("ALLOWED_QUEUES", "a b", "FINETUNE_ALLOWED_QUEUES is 'a b': String should match pattern"),
        (
            "REQUIRED_LIMITS",
            '{"nvidia.com/gpu": "1"}',
            "nvidia.com/gpu cannot be limited; allowed are: cpu, memory, ephemeral-storage",
        ),
        ("REQUIRED_LIMITS", '{"cpu": "many"}', "'many' is no quantity"),
        (
            "POD_LABELS",
            '{"langops.dev/run": "7"}',
            "langops.dev/run is set by the operator itself; leave it out",
        ),
        ("TRAINER_ENV", "HF=1", 'it must be a JSON object such as {"NAME": "value"}'),
    ],
)
def test_a_wrong_setting_is_named(
    environment: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    environment.setenv(f"FINETUNE_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith("The operator's settings are wrong: ")
    assert fault in message
    assert message.endswith(". Correct the environment and start again.")


def test_a_missing_setting_is_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("FINETUNE_TRAINER_IMAGE")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == (
        "The operator's settings are wrong: FINETUNE_TRAINER_IMAGE is not set. "
        "Correct the environment and start again."
    )


def test_every_setting_says_what_it_is() -> None:
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("status.ml.svc", "https://status.ml.svc:8443"),
        ("10.0.0.1", "https://10.0.0.1:8443"),
        ("fd00::1", "https://[fd00::1]:8443"),
    ],
    ids=["name", "IPv4", "IPv6"],
)
def test_pods_are_told_where_to_report(host: str, url: str) -> None:
    assert build_status_url(host, 8443) == url


def test_the_decisions_know_the_settings_and_the_authority(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("FINETUNE_ALLOWED_SERVICE_ACCOUNTS", "trainer")
    context = build_context(load_settings(), ca_pem="PEM")
    assert context.trainer_image == "trainer:1"
    assert context.ca_pem == "PEM"
    assert context.allowed_service_accounts == {"trainer"}


def test_an_empty_id_leaves_it_to_the_cluster(environment: pytest.MonkeyPatch) -> None:
    assert load_settings().run_as_user == 65532
    for name in ("RUN_AS_USER", "RUN_AS_GROUP", "FS_GROUP"):
        environment.setenv(f"FINETUNE_{name}", "")
    settings = load_settings()
    assert (settings.run_as_user, settings.run_as_group, settings.fs_group) == (None, None, None)


def test_an_empty_list_of_permissions_allows_nothing(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("FINETUNE_ALLOWED_PRIORITY_CLASSES", "")
    policy = build_context(load_settings(), ca_pem="").pods
    assert policy.allowed_priority_classes == ()
    assert "nvidia.com/gpu" in policy.allowed_tolerations
