"""What the loop does between steps, and in which order, with steps that compute nothing."""

import dataclasses
import json
import logging
import signal
import threading

import pytest
import tensorflow as tf

from tf_dlrm.errors import UserError
from tf_dlrm.training.checkpoints import Position
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.history import History
from tf_dlrm.training.loop import Loop
from tf_dlrm.training.options.config import RunOptions
from tfrecords import data_service
from tfrecords.data_service import start_dispatcher, start_worker
from tfrecords.fault import VARIABLE


class _Source:
    """Five steps of 10 rows an epoch, the last of 7."""

    def rows(self, split):
        return {"train": 47, "evaluation": 20}[split]

    def batches(self, split, batch_size, **arguments):
        return ()

    def explain(self, error):
        return str(error)


class _Checkpoints:
    def __init__(self, events):
        self.latest = None
        self._events = events

    def save(self, position):
        self.latest = f"checkpoint-{position.step}"
        self._events.append(("save", position))


@pytest.fixture
def events():
    """What a loop has done."""
    return []


@pytest.fixture
def loop(tmp_path, events):
    """Returns a function that makes a loop, which goes on at a step."""

    def make(resumed_step=0, **options):
        step = resumed_step

        def training_steps(batches, count):
            nonlocal step
            step += int(count)
            events.append(("steps", int(count)))
            return tf.constant(0.5) * float(count)

        def evaluate():
            events.append(("evaluate", step))
            return {"auc": 0.5 + step / 100, "log_loss": 0.25, "evaluation_examples": 20}

        return Loop(
            options=RunOptions(batch_size=10, **options),
            source=_Source(),
            shuffle=True,
            data_service="",
            distribute=lambda batches: batches,
            training_steps=training_steps,
            evaluate=evaluate,
            find_non_finite=lambda: None,
            checkpoints=_Checkpoints(events),
            history=History(str(tmp_path), False, resumed_step),
            processes=Processes(tf.distribute.get_strategy()),
            skipped_updates=lambda: 2 if step >= 6 else 0,
        )

    return make


def _without_steps(events):
    return [event for event in events if event[0] != "steps"]


def test_a_checkpoint_comes_before_the_evaluation_of_its_step(loop, events):
    position, _ = loop(epochs=2, checkpoint_every_steps=3, eval_every_steps=6).run(Position())
    assert position == Position(10, 2, 0)
    assert _without_steps(events) == [
        ("save", Position(3, 0, 30)),
        ("save", Position(6, 1, 10)),
        ("evaluate", 6),
        ("save", Position(9, 1, 40)),
        ("save", Position(10, 2, 0)),
        ("evaluate", 10),
    ]
    assert sum(count for kind, count in events if kind == "steps") == 10


def test_skipped_updates_are_logged_once(loop, caplog):
    loop(epochs=2, eval_every_steps=3).run(Position())
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warned == [
        "2 of the updates of the tables between steps 6 and 6 were skipped, since some gradient "
        "was not finite"
    ]


def test_a_service_without_workers_is_named_until_one_comes(loop, events, monkeypatch):
    monkeypatch.setattr(data_service, "SECONDS_OF_PATIENCE", 1)
    dispatcher = start_dispatcher(0)
    said, workers, begun = [], [], threading.Event()

    def begin(record=None):
        if record:
            said.append(record.getMessage())
        if not begun.is_set():
            begun.set()
            workers.append(start_worker(dispatcher.target.split("://")[1], 0))

    handler = logging.Handler(logging.WARNING)
    handler.emit = begin
    # A loop that says nothing would wait for ever.
    at_last = threading.Timer(20, begin)
    at_last.daemon = True

    def take(batches, count):
        events.extend(next(batches).numpy().tolist() for _ in range(int(count)))
        return tf.constant(0.5) * float(count)

    served = dataclasses.replace(loop(), data_service=dispatcher.target, training_steps=take)
    served.source.batches = lambda *_, **__: tf.data.Dataset.range(47).batch(10)
    at_last.start()
    data_service._LOG.addHandler(handler)
    try:
        assert served.run(Position())[0] == Position(5, 1, 0)
    finally:
        data_service._LOG.removeHandler(handler)
        at_last.cancel()
    assert said[0] == (
        f"waiting for the tf.data service at {dispatcher.target}: no batch has come for 1 seconds; "
        "has it a worker that runs?"
    )
    rows = [event for event in events if isinstance(event, list)]
    assert [len(batch) for batch in rows] == [10, 10, 10, 10, 7]
    assert sum(rows, []) == list(range(47))


def test_a_run_that_was_stopped_before_an_evaluation_makes_it_up(loop, events):
    resumed = loop(resumed_step=4, eval_every_steps=4)
    resumed.run(Position(4, 0, 40))
    assert events[0] == ("evaluate", 4)
    assert events[1:] == [("steps", 1), ("save", Position(5, 1, 0)), ("evaluate", 5)]
    # Which now is there.
    loop(resumed_step=4, eval_every_steps=4).run(Position(4, 0, 40))
    assert events[4:] == events[1:4]


@pytest.fixture
def _interruptible():
    """Undoes what background jobs of a shell, and nohup, begin with: they ignore these."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGHUP, hangup)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_ends_the_run_after_a_checkpoint_of_the_next_steps(
    loop, events, monkeypatch, number, step
):
    point = f"evaluation:{step}:{number.name}"
    monkeypatch.setenv(VARIABLE, point)
    with pytest.raises(SystemExit) as ended:
        loop(eval_every_steps=2, checkpoint_every_steps=2).run(Position())
    assert ended.value.code == 128 + number
    (kind, position), (before, count) = events[-1], events[-2]
    assert (kind, before) == ("save", "steps") and position.step == step + count
    assert ("evaluate", position.step) not in events
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("_interruptible")
def test_a_second_interrupt_ends_at_once(loop, events, monkeypatch):
    running = loop(eval_every_steps=2)
    evaluate = running.evaluate

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return evaluate()

    running.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        running.run(Position())
    assert "save" not in [kind for kind, _ in events]


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"rows": 0}, {"rows": -5}])
def test_no_steps_at_all_is_an_error(loop, monkeypatch, changes):
    running = loop(**{name: value for name, value in changes.items() if name != "rows"})
    if "rows" in changes:
        monkeypatch.setattr(running.source, "rows", lambda split: changes["rows"])
    with pytest.raises(UserError, match="There is nothing to train|The data has no training rows"):
        running.run(Position())


def test_the_fault_point_of_an_evaluation_comes_after_it_is_written(loop, tmp_path, monkeypatch):
    seen = []

    def note(number, frame):
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        seen.append([json.loads(line)["step"] for line in lines])

    before = signal.signal(signal.SIGUSR1, note)
    monkeypatch.setenv(VARIABLE, "evaluation:2:SIGUSR1")
    try:
        loop(eval_every_steps=1).run(Position())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [[1, 2]]
