"""The launcher: its processes, their TF_CONFIG, its output and its one exit code.

What it starts here is a small program that does not import TensorFlow.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from tf_dlrm.launching.cluster import reserved_ports

_SECONDS = 60  # for each thing that is waited for: it takes 1 to 3
_ROOT = pathlib.Path(__file__).parent.parent
_PROGRAM = """
import json, os, signal, sys, time
config = json.loads(os.environ["TF_CONFIG"])
me = f"{config['task']['type']}_{config['task']['index']}"
if sys.argv[1] == "config":
    print(json.dumps(config | {"threads": os.environ.get("TF_NUM_INTRAOP_THREADS")}))
    sys.stderr.write("whole line\\npart of a line")
elif sys.argv[1] == "exit":
    codes = dict(pair.split("=") for pair in sys.argv[2].split(","))
    if me in codes:
        sys.exit(int(codes[me]))
    time.sleep(60)
elif sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", file=sys.stderr, flush=True)
    time.sleep(60)
elif sys.argv[1] == "polite":
    def stop(number, frame):
        if me in ("chief_0", "worker_0"):
            time.sleep(0.2)  # whoever would not wait for it is earlier
        print("saved", file=sys.stderr, flush=True)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
elif sys.argv[1] == "notice":  # worker 1 dies, and worker 0 notices a little later
    marker = os.path.join(sys.argv[2], "dead")
    if me == "worker_1":
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    while not os.path.exists(marker):
        time.sleep(0.02)
    time.sleep(0.2)
    sys.exit(3)
elif sys.argv[1] == "mortal":  # a worker that dies whenever it is started
    if me == "worker_0":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
elif sys.argv[1] == "once":  # a worker that dies once, and a chief that ends when it is back
    marker = os.path.join(sys.argv[2], me)
    if me == "worker_0" and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if me == "worker_0":
        open(marker + "_again", "w").close()
    while me == "chief_0" and not os.path.exists(os.path.join(sys.argv[2], "worker_0_again")):
        time.sleep(0.02)
    if me != "chief_0":
        time.sleep(60)
    print("done")
"""


class _Launched:
    def __init__(self, folder, *arguments, **environment):
        (folder / "small_program.py").write_text(textwrap.dedent(_PROGRAM))
        # Where the tests run under nohup, the launcher would ignore it too, as it should.
        before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tf_dlrm.launch", *arguments],
            env=os.environ | environment | {"PYTHONPATH": f"{_ROOT}{os.pathsep}{folder}"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGHUP, before)
        self.errors = ""

    def wait_for(self, text, times=1):
        deadline = time.monotonic() + _SECONDS
        while self.errors.count(text) < times:
            assert time.monotonic() < deadline, self.errors
            line = self.process.stderr.readline()
            assert line, self.errors
            self.errors += line

    def pids(self):
        return {
            name: int(pid)
            for name, pid in re.findall(r"\[launch\] (.*?) is process (\d+)", self.errors)
        }

    def finish(self):
        output, errors = self.process.communicate(timeout=_SECONDS)
        self.errors += errors
        return self.process.returncode, output


@pytest.fixture
def launch(tmp_path):
    started = []

    def start(*arguments, **environment):
        started.append(_Launched(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for launched in started:
        if launched.process.poll() is None:
            launched.process.kill()
            launched.process.communicate()


def _gone(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def _wait_gone(pids):
    deadline = time.monotonic() + _SECONDS
    while not all(_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


_RUN = ("--module=small_program", "--")


def test_each_process_knows_the_cluster_and_its_task_and_worker_0_has_the_standard_output(launch):
    # Which is another cluster's.
    other = json.dumps({"cluster": {"worker": ["other:1"]}, "task": {"type": "chief", "index": 7}})
    arguments = ("--workers=3", "--threads_per_process=5", *_RUN, "config")
    code, output = (launched := launch(*arguments, TF_CONFIG=other)).finish()
    assert code == 0, launched.errors
    config = json.loads(output)  # one line, of worker 0 alone
    assert config.pop("threads") == "5"
    assert config["task"] == {"type": "worker", "index": 0}
    addresses = config["cluster"].pop("worker")
    assert config["cluster"] == {}
    assert len(set(addresses)) == 3 and all(a.startswith("127.0.0.1:") for a in addresses)
    others = re.findall(r"^\[worker (\d)\] (\{.*\})$", launched.errors, re.MULTILINE)
    assert {int(k): json.loads(text)["task"]["index"] for k, text in others} == {1: 1, 2: 2}
    for worker in range(3):
        assert f"[worker {worker}] whole line\n" in launched.errors
        assert f"[worker {worker}] part of a line\n" in launched.errors


def test_parameter_servers_bring_a_chief(launch):
    launched = launch("--workers=1", "--parameter_servers=2", *_RUN, "exit", "chief_0=0")
    launched.wait_for("is process", 4)
    pids = launched.pids()
    assert set(pids) == {"the chief", "parameter server 0", "parameter server 1", "worker 0"}
    code, _ = launched.finish()
    assert code == 0, launched.errors  # the chief is done, and the others are ended
    _wait_gone(pids.values())


@pytest.mark.parametrize("servers", [(), ("--parameter_servers=1",)])
def test_the_first_that_fails_ends_all_and_gives_the_exit_code(launch, servers):
    failing = "chief_0=7" if servers else "worker_1=7"
    launched = launch("--workers=2", "--grace_seconds=1", *servers, *_RUN, "exit", failing)
    code, _ = launched.finish()
    assert code == 7
    assert "ended with code 7" in launched.errors
    _wait_gone(launched.pids().values())


def test_a_dead_parameter_server_ends_the_job(launch):
    launched = launch("--workers=1", "--parameter_servers=2", "--grace_seconds=1", *_RUN, "polite")
    launched.wait_for("ready", 4)
    os.kill(launched.pids()["parameter server 1"], signal.SIGKILL)
    code, _ = launched.finish()
    assert code == 128 + signal.SIGKILL
    assert "parameter server 1 was killed by SIGKILL" in launched.errors
    _wait_gone(launched.pids().values())


def test_a_dead_worker_of_parameter_servers_is_started_again(launch, tmp_path):
    launched = launch("--workers=1", "--parameter_servers=1", *_RUN, "once", str(tmp_path))
    code, output = launched.finish()
    assert (code, output) == (0, "done\n"), launched.errors
    assert "worker 0 was killed by SIGKILL; training goes on" in launched.errors


def test_a_worker_that_dies_too_often_is_not_started_again(launch):
    arguments = ("--workers=1", "--parameter_servers=1", "--max_restarts=2", "--grace_seconds=0.1")
    launched = launch(*arguments, *_RUN, "mortal")
    code, _ = launched.finish()
    assert code == 128 + signal.SIGKILL
    assert re.findall(r"it is restarted \((.*)\)", launched.errors) == ["1 of 2", "2 of 2"]
    assert "No worker is left." in launched.errors
    assert launched.errors.count("worker 0 is process") == 3


def test_the_others_may_first_say_what_a_death_did_to_them(launch, tmp_path):
    launched = launch("--workers=2", "--grace_seconds=60", *_RUN, "notice", str(tmp_path))
    code, _ = launched.finish()
    assert code == 128 + signal.SIGKILL
    assert "worker 1 died first: it was killed by SIGKILL" in launched.errors
    assert "After it, worker 0 ended with code 3." in launched.errors


def test_parameter_servers_stay_until_the_chief_has_saved(launch):
    launched = launch("--workers=1", "--parameter_servers=1", *_RUN, "polite")
    launched.wait_for("ready", 3)
    launched.process.send_signal(signal.SIGTERM)
    code, _ = launched.finish()
    assert code == 128 + signal.SIGTERM
    assert launched.errors.count("saved") == 3
    saved = launched.errors.index("[chief] saved")
    assert all(saved < launched.errors.index(f"[{name}] saved") for name in ("ps 0", "worker 0"))


def test_a_result_that_nobody_reads_is_a_failure(launch):
    launched = launch("--workers=2", *_RUN, "config")
    launched.process.stdout.close()
    launched.process.stdout = None  # for communicate
    code, _ = launched.finish()
    assert code == 1
    assert "[worker 1] whole line" in launched.errors


def test_a_port_is_kept_for_a_server_and_for_the_one_in_its_place():
    with reserved_ports(3) as ports:
        assert len(set(ports)) == 3
        for _ in range(2):
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC's do
                server.bind(("0.0.0.0", ports[1]))
                server.listen()
                with socket.create_connection(("127.0.0.1", ports[1]), timeout=_SECONDS):
                    pass
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("0.0.0.0", ports[2]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_processes_which_may_save(launch, number):
    launched = launch("--workers=2", *_RUN, "polite")
    launched.wait_for("ready", 2)
    launched.process.send_signal(number)
    code, _ = launched.finish()
    assert code == 128 + number
    assert launched.errors.count("saved") == 2


def test_a_process_that_ignores_the_signal_is_killed_after_the_grace(launch):
    launched = launch("--workers=2", "--grace_seconds=0.5", *_RUN, "deaf")
    launched.wait_for("deaf", 2)
    launched.process.send_signal(signal.SIGTERM)
    code, _ = launched.finish()
    assert code == 128 + signal.SIGTERM
    for worker in (0, 1):
        sentence = f"worker {worker} did not end within 0.5 seconds of SIGTERM, and is killed."
        assert sentence in launched.errors
    _wait_gone(launched.pids().values())


def test_no_process_outlives_a_launcher_that_is_killed(launch):
    launched = launch("--workers=2", *_RUN, "deaf")
    launched.wait_for("deaf", 2)
    launched.process.kill()
    _wait_gone(launched.pids().values())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--workers=2",), "There is no --"),
        (("--workers=0", "--"), "--workers"),
        (("--module=no_such_module", "--"), "no such module"),
        (("--restart_workers=false", "--"), "--restart_workers needs --parameter_servers"),
        (("--workers=60", "--parameter_servers=60", "--"), "too many for one machine"),
        (("--grace_seconds=-1", "--"), "--grace_seconds"),
        (("x", "--"), "Unexpected argument 'x'"),
    ],
)
def test_impossible_wishes_end_in_a_sentence(run_command, arguments, sentence):
    done = run_command("tf_dlrm.launch", *arguments)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err
    assert "Traceback" not in done.err
