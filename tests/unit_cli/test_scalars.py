"""Plain scalars are what kubectl makes of them.

The values were printed by kubectl 1.37.1: `kubectl annotate --local -f FILE -o json q=1`.
"""

import json

import pytest
import yaml

from finetune_cli.inputs.manifests import KubectlLoader

BY_KUBECTL = {
    "2e-4": "0.0002",
    "8.0": "8",
    "010": "8",
    "0o10": "8",
    "0x8": "8",
    "0b1000": "8",
    "1_0": "10",
    "1__0": "10",
    "+8": "8",
    "08": "8",
    "1e3": "1000",
    ".5": "0.5",
    "5.": "5",
    "12345e67": "1.2345e+71",
    "1e400": '"1e400"',
    "no": "false",
    "y": "true",
    "~": "null",
    "Null": "null",
    "12:30": '"12:30"',
    "2026-01-01": '"2026-01-01"',
    "1e": '"1e"',
    ".inf1": '".inf1"',
    "_1": '"_1"',
}


@pytest.mark.parametrize("scalar", BY_KUBECTL)
def test_scalar_is_what_kubectl_makes_of_it(scalar):
    (value,) = yaml.load(f"[{scalar}]", Loader=KubectlLoader)
    assert json.dumps(value) == BY_KUBECTL[scalar]


def test_a_boolean_key_becomes_text_as_for_kubectl():
    assert json.dumps(yaml.load("n: 5", Loader=KubectlLoader)) == '{"false": 5}'
