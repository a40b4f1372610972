"""What happens when processes of a cluster die, are stopped, are slow or do not agree.

Clusters get their signals at fault points (`tfrecords.fault`), so that they are where the test
thinks they are.
"""

import pathlib
import signal

import numpy as np
import pytest

from tf_dlrm.embeddings.plan import ROW_WISE, TABLE_WISE, Plan, TablePlan
from tf_dlrm.training.run import train

pytestmark = pytest.mark.process

# Without an end, so that none comes before its signal.
_LONG = {"random_train_rows": 100_000_000, "epochs": 1, "checkpoint_every_steps": 10}


def _newest(folder):
    indices = pathlib.Path(folder, "checkpoints").glob("*.index")
    return max((int(path.stem.split("-")[1]) for path in indices), default=0)


def test_a_multi_worker_run_survives_kill_sigterm_and_a_slow_worker(
    tmp_path, start, tiny, flags, assert_equal_tables, last_metrics, two_workers
):
    folder = tmp_path / "two"
    config = {"distribution": "multi_worker_mirrored", **_LONG}

    def begin(fault):
        return start("--workers=2", "--", *flags(tiny(folder, **config)), fault=fault)

    cluster = begin("checkpoint:20:SIGKILL:worker.1")
    assert cluster.finish() == 128 + signal.SIGKILL
    assert "worker 1 was killed by SIGKILL" in cluster.text()
    assert "can no longer work with the other 1" in cluster.text(), cluster.text()
    assert _newest(folder) == 20

    cluster = begin("checkpoint:30:SIGSTOP:worker.1")
    cluster.wait_until_stopped("worker 1")
    cluster.process.send_signal(signal.SIGTERM)
    cluster.wait_for("SIGTERM came")
    cluster.signal("worker 1", signal.SIGCONT)  # before the grace is over
    assert cluster.finish() == 128 + signal.SIGTERM
    cluster.wait_for(r"worker 1\].*resuming at step 20 ")
    stopped_at = _newest(folder)
    assert stopped_at > 30
    for worker in (0, 1):
        cluster.wait_for(rf"worker {worker}\].*stopped by SIGTERM after step {stopped_at} ")

    end = stopped_at + 10
    assert two_workers.train(tiny(folder, **config, train_steps=end)) == ["done", "done"]
    one = tmp_path / "one"
    train(tiny(one, **_LONG | {"checkpoint_every_steps": 0}, train_steps=end))
    np.testing.assert_allclose(last_metrics(folder), last_metrics(one), rtol=1e-4)
    assert_equal_tables(folder, one)


def test_a_parameter_server_run_survives_kills_and_sigterm(tmp_path, start, tiny, flags):
    arguments = flags(tiny(tmp_path, distribution="parameter_server", **_LONG))

    def begin(workers, fault):
        common = ("--parameter_servers=1", "--", *arguments)
        return start(f"--workers={workers}", *common, fault=fault)

    # Workers and servers have no checkpoints: they die while the chief is stopped after one.
    cluster = begin(2, "checkpoint:20:SIGSTOP:chief.0")
    cluster.wait_until_stopped("the chief")
    cluster.signal("worker 0", signal.SIGKILL)
    cluster.wait_for("worker 0 was killed by SIGKILL; training goes on, and it is restarted")
    cluster.signal("the chief", signal.SIGCONT)
    cluster.wait_for(r"chief\].*checkpoint of step 50 written")
    cluster.signal("parameter server 0", signal.SIGKILL)
    assert cluster.finish() != 0
    assert "parameter server 0 was killed by SIGKILL" in cluster.text()
    assert "can no longer reach" in cluster.text(), cluster.text()
    assert "Traceback" not in cluster.text(), cluster.text()
    killed_at = _newest(tmp_path)
    assert killed_at >= 50

    next_one = killed_at + 10
    cluster = begin(1, f"checkpoint:{next_one}:SIGSTOP:chief.0")
    cluster.wait_until_stopped("the chief")
    cluster.process.send_signal(signal.SIGTERM)
    cluster.wait_for("SIGTERM came")
    cluster.signal("the chief", signal.SIGCONT)
    assert cluster.finish() == 128 + signal.SIGTERM
    assert f"resuming at step {killed_at} " in cluster.text()
    stopped_at = _newest(tmp_path)
    assert f"stopped by SIGTERM after step {stopped_at} " in cluster.text()
    assert stopped_at > next_one


@pytest.mark.parametrize("difference", ["flag", "plan"])
def test_workers_that_do_not_agree_are_refused_with_both_values(
    tmp_path, tiny, two_workers, difference
):
    configs, plans = [], []
    for index in (0, 1):
        plan = Plan(
            2,
            {
                "C1": TablePlan(ROW_WISE, (0, 1)),
                "C2": TablePlan(ROW_WISE, (0, 1)),
                "C3": TablePlan(TABLE_WISE, (index if difference == "plan" else 0,)),
            },
        )
        plans.append({"plan.json": plan.to_json()})
        configs.append(
            tiny(
                tmp_path / "run",
                distribution="multi_worker_mirrored",
                plan="plan.json",
                batch_size=99 + index if difference == "flag" else 99,
            )
        )
    ended = two_workers.train(*configs, files=plans)
    if difference == "flag":
        expected = "refused: --batch_size is '99' in worker 0, but '100' in worker 1; all workers"
        assert [text[: len(expected)] for text in ended] == [expected] * 2
    for text in ended if difference == "plan" else ():
        assert "refused: the plan of table C3 is" in text
        assert "devices=(0,)" in text and "devices=(1,)" in text
