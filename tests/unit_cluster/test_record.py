"""What the lab records to undo, and how it knows its processes again."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.layout import Layout
from tests.cluster.processes import (
    BOOT_ID,
    Program,
    build_environment,
    build_flags,
    check_running,
    is_running,
    parse_stat,
    running,
    start,
    stop,
)
from tests.cluster.record import Process, Record, dump_record, load_record, parse_record
from tests.cluster.steps import LabError, wait_until

ETCD = Process(name="etcd", pid=7, started=100, boot="b")


def test_record_survives_being_written_and_read() -> None:
    record = (
        Record()
        .with_process(ETCD)
        .with_link("br0")
        .with_folder("/run/netns")
        .with_sysctl("net.ipv4.ip_forward", before="0")
    )
    assert parse_record(dump_record(record)) == record


def test_missing_record_is_empty(tmp_path: Path) -> None:
    assert load_record(tmp_path / "record.json") == Record()


def test_process_started_again_replaces_the_earlier_one() -> None:
    again = replace(ETCD, pid=8)
    record = Record().with_process(ETCD).with_process(again)
    assert record.processes == (again,)


def test_oldest_value_of_a_setting_is_kept() -> None:
    record = Record().with_sysctl("x", before="0").with_sysctl("x", before="1")
    assert record.sysctls == {"x": "0"}


def test_link_recorded_twice_is_removed_once() -> None:
    assert Record().with_link("br0").with_link("br0").links == ("br0",)


def test_stat_of_a_program_with_spaces_and_parentheses_is_read() -> None:
    fields = " ".join(str(number) for number in range(4, 30))
    assert parse_stat(f"12 (a) b (c)) S {fields}") == ("S", 22)


def test_flags_are_one_word_each() -> None:
    assert build_flags({"ip": "::1", "port": 80}, dash="-") == ["-ip=::1", "-port=80"]


@pytest.fixture
def own_process() -> Process:
    """The test's own process, as it would be recorded."""
    _, started = parse_stat(Path("/proc/self/stat").read_text())
    return Process(name="x", pid=os.getpid(), started=started, boot=BOOT_ID.read_text().strip())


def test_process_of_same_id_and_start_is_running(own_process: Process) -> None:
    assert is_running(own_process)


def test_reused_id_is_another_process(own_process: Process) -> None:
    assert not is_running(replace(own_process, started=own_process.started + 1))


def test_process_of_an_earlier_boot_is_another_process(own_process: Process) -> None:
    assert not is_running(replace(own_process, boot="earlier"))


def test_started_program_runs_until_stopped(tmp_path: Path) -> None:
    layout = Layout(state=tmp_path)
    sleeper = Program(name="sleeper", command=["sleep", "60"])
    assert start(sleeper, layout=layout)
    assert not start(sleeper, layout=layout), "a second start finds it running"
    stop(load_record(layout.record).processes)
    assert not running("sleeper", layout=layout)


def test_program_deaf_to_sigterm_is_killed(tmp_path: Path) -> None:
    layout = Layout(state=tmp_path)
    deaf = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    start(Program(name="deaf", command=["sh", "-c", deaf]), layout=layout)
    stop(load_record(layout.record).processes)
    assert not running("deaf", layout=layout)


def test_keys_of_the_caller_do_not_reach_the_lab() -> None:
    own = {"PATH": "/bin", "AWS_ACCESS_KEY_ID": "x", "HTTPS_PROXY": "y"}
    assert build_environment(own) == {"PATH": "/bin"}


def test_dead_program_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    layout = Layout(state=tmp_path)
    start(Program(name="loud", command=["sh", "-c", "echo no disk; exit 1"]), layout=layout)
    wait_until(lambda: not running("loud", layout=layout), what="loud to end")
    with pytest.raises(LabError) as caught:
        check_running("loud", layout=layout)
    log = tmp_path / "logs" / "loud.log"
    assert str(caught.value) == f"loud is not running; {log} ends with:\nno disk\n"


def test_another_program_is_not_stopped_by_a_stale_record() -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        stale = Process(name="etcd", pid=stranger.pid, started=1, boot=BOOT_ID.read_text().strip())
        stop([stale])
        assert stranger.poll() is None
        stranger.kill()
