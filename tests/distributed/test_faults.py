"""What happens when processes of a cluster die, are stopped, are slow or do not agree."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import portpicker
import pytest

from tf_dlrm.embeddings.plan import ROW_WISE, TABLE_WISE, Plan, TablePlan
from tf_dlrm.training.run import train

_LONG = {"random_train_rows": 100_000_000, "epochs": 1, "checkpoint_every_steps": 10}


def _newest(folder):
    indices = pathlib.Path(folder, "checkpoints").glob("*.index")
    return max((int(path.stem.split("-")[1]) for path in indices), default=0)


def test_a_multi_worker_run_survives_kill_sigterm_and_a_slow_worker(
    tmp_path, start, tiny, flags, checkpoint_tables, last_metrics
):
    folder = tmp_path / "two"
    workers = {"distribution": "multi_worker_mirrored", **_LONG}

    def begin(**changes):
        return start("--workers=2", "--", *flags(tiny(folder, **workers, **changes)))

    cluster = begin()
    cluster.wait_for(r"worker 0\].*checkpoint of step 20 written")
    cluster.signal("worker 1", signal.SIGKILL)
    code, _ = cluster.finish()
    assert code == 128 + signal.SIGKILL
    assert "worker 1 was killed by SIGKILL" in cluster.text()
    assert "can no longer work with the other 1" in cluster.text(), cluster.text()
    killed_at = _newest(folder)
    assert killed_at >= 20

    cluster = begin()
    cluster.wait_for(rf"worker 1\].*resuming at step {killed_at} ")
    cluster.wait_for(rf"worker 0\].*checkpoint of step {killed_at + 10} written")
    cluster.process.send_signal(signal.SIGTERM)
    code, _ = cluster.finish()
    assert code == 128 + signal.SIGTERM
    stopped_at = _newest(folder)
    assert stopped_at > killed_at
    for worker in (0, 1):
        cluster.wait_for(rf"worker {worker}\].*stopped by SIGTERM after step {stopped_at} ")

    end = stopped_at + 30
    cluster = begin(train_steps=end)
    cluster.wait_for(rf"worker 1\].*resuming at step {stopped_at} ")
    cluster.signal("worker 1", signal.SIGSTOP)
    time.sleep(3)
    cluster.signal("worker 1", signal.SIGCONT)
    code, _ = cluster.finish()
    assert code == 0, cluster.text()

    one = tmp_path / "one"
    train(tiny(one, **_LONG | {"checkpoint_every_steps": 0}, train_steps=end))
    np.testing.assert_allclose(last_metrics(folder), last_metrics(one), rtol=1e-4)
    expected = checkpoint_tables(one)
    for name, array in checkpoint_tables(folder).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-2, atol=1e-4, err_msg=name)


def test_a_parameter_server_run_survives_kills_and_sigterm(
    tmp_path, start, tiny, flags, last_metrics
):
    folder = tmp_path / "servers"
    servers = {"distribution": "parameter_server", **_LONG}

    def begin(**changes):
        arguments = flags(tiny(folder, **servers, **changes))
        return start("--workers=2", "--parameter_servers=1", "--", *arguments)

    cluster = begin()
    cluster.wait_for(r"chief\].*checkpoint of step 20 written")
    cluster.signal("worker 0", signal.SIGKILL)
    cluster.wait_for("worker 0 was killed by SIGKILL; training goes on")
    seen = _newest(folder)
    cluster.wait_for(rf"chief\].*checkpoint of step {seen + 30} written")
    cluster.signal("ps 0", signal.SIGKILL)
    code, _ = cluster.finish()
    assert code != 0
    assert "parameter server 0 was killed by SIGKILL" in cluster.text()
    assert "can no longer reach" in cluster.text(), cluster.text()
    assert "Traceback" not in cluster.text(), cluster.text()
    killed_at = _newest(folder)

    cluster = begin()
    cluster.wait_for(rf"chief\].*resuming at step {killed_at} ")
    cluster.wait_for(rf"chief\].*checkpoint of step {killed_at + 10} written")
    cluster.process.send_signal(signal.SIGTERM)
    code, _ = cluster.finish()
    assert code == 128 + signal.SIGTERM
    stopped_at = _newest(folder)
    assert f"stopped by SIGTERM after step {stopped_at} " in cluster.text()
    assert stopped_at > killed_at


@pytest.mark.parametrize("difference", ["flag", "plan"])
def test_workers_that_do_not_agree_are_refused_with_both_values(tmp_path, tiny, flags, difference):
    ports = [portpicker.pick_unused_port() for _ in range(2)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for index in (0, 1):
        folder = tmp_path / f"worker_{index}"
        folder.mkdir()
        plan = Plan(
            2,
            {
                "C1": TablePlan(ROW_WISE, (0, 1)),
                "C2": TablePlan(ROW_WISE, (0, 1)),
                "C3": TablePlan(TABLE_WISE, (index if difference == "plan" else 0,)),
            },
        )
        (folder / "plan.json").write_text(plan.to_json())
        batch_size = 99 + index if difference == "flag" else 99
        config = tiny(
            tmp_path / "run",
            distribution="multi_worker_mirrored",
            plan="plan.json",
            batch_size=batch_size,
        )
        task = {"type": "worker", "index": index}
        environment = os.environ | {
            "TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task}),
            "PYTHONPATH": str(pathlib.Path(__file__).parent.parent.parent),
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tf_dlrm.train", *flags(config)],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [2, 2], errors
    expected = {
        "flag": "--batch_size is '99' in worker 0, but '100' in worker 1",
        "plan": "the plan of table C3 is",
    }[difference]
    for text in errors:
        assert expected in text
        if difference == "plan":
            assert "devices=(0,)" in text and "devices=(1,)" in text
