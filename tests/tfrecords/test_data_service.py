import socket
import threading
import time

import pytest
import tensorflow as tf

from tfrecords import data_service
from tfrecords.data_service import start_dispatcher, start_worker, through_service
from tfrecords.errors import DataError
from tfrecords.random import RandomSource
from tfrecords.random_schema import random_schema
from tfrecords.reader import RecordSource


def _lists(dataset):
    return [
        ([features[name].numpy().tolist() for name in ("row_id", "pair")], label.numpy().tolist())
        for features, label in dataset
    ]


def _bags(dataset):
    return [features["bag"].to_list() for features, _ in dataset]


def test_the_same_batches_as_without_the_service(numbered):
    source = RecordSource(numbered(503)[0], shuffle_window_rows=150)
    dispatcher = start_dispatcher(0)
    worker = start_worker(dispatcher.target.split("://")[1], 0)
    plain = source.batches("train", 32, shuffle_seed=2, epoch=1, first_row=130)
    served = through_service(plain, dispatcher.target)
    assert len(served) == len(plain)
    assert served.element_spec == plain.element_spec
    assert _lists(served) == _lists(plain)
    assert _bags(served) == _bags(plain)
    del worker


def test_several_workers_never_yield_other_batches(numbered):
    # Each worker runs the whole dataset: what arrives in another order has to end in an error.
    plain = RecordSource(numbered(503)[0]).batches("train", 2)
    dispatcher = start_dispatcher(0)
    address = dispatcher.target.split("://")[1]
    workers = [start_worker(address, 0) for _ in range(2)]
    expected = iter(_lists(plain))
    try:
        for batch in through_service(plain, dispatcher.target):
            assert _lists([batch]) == [next(expected)]
    except tf.errors.InvalidArgumentError as error:
        assert "yielded another batch than the next one" in str(error)
    del workers


def test_a_service_out_of_turn_stops_reading(monkeypatch):
    service = tf.data.experimental.service
    monkeypatch.setattr(service, "distribute", lambda **_: lambda dataset: dataset.skip(1))
    dispatcher = start_dispatcher(0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="it has several"):
        list(through_service(tf.data.Dataset.range(5), dispatcher.target))


def test_training_says_that_a_service_was_out_of_turn(monkeypatch):
    service = tf.data.experimental.service
    monkeypatch.setattr(service, "distribute", lambda **_: lambda dataset: dataset.skip(1))
    dispatcher = start_dispatcher(0)
    batches = iter(through_service(tf.data.Dataset.range(5), dispatcher.target))
    source = RandomSource(random_schema([5], 1, 1), {"train": 5}, 0, label="random")
    # As a step of training takes a batch.
    with pytest.raises(tf.errors.InvalidArgumentError) as failed:
        tf.function(lambda: next(batches))()
    assert "or its worker was started again" in source.explain(failed.value)


@pytest.mark.parametrize("address", ["localhost:5050", "grpc://host", "http://host:1", ""])
def test_an_address_of_another_form(address):
    with pytest.raises(DataError, match="has the form grpc://HOST:PORT"):
        through_service(tf.data.Dataset.range(3), address)


def test_nothing_answers():
    # Bound and not listening, so that nobody else can take the port.
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        address = f"grpc://localhost:{taken.getsockname()[1]}"
        with pytest.raises(DataError, match=f"No tf.data service answers at {address}"):
            through_service(tf.data.Dataset.range(3), address)


def test_something_else_answers():
    with socket.create_server(("localhost", 0)) as other:
        address = f"grpc://localhost:{other.getsockname()[1]}"

        def hang_up():
            other.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DataError, match="(is no tf.data service|No tf.data service answers)"):
            through_service(tf.data.Dataset.range(3), address)
        thread.join()


def test_something_that_never_answers_is_named_while_it_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(data_service, "SECONDS_OF_PATIENCE", 0.1)
    monkeypatch.setattr(data_service, "_SECONDS", 1.0)
    # The system accepts connections to it; nobody reads what they say.
    with socket.create_server(("localhost", 0)) as silent:
        address = f"grpc://localhost:{silent.getsockname()[1]}"
        with pytest.raises(DataError, match=f"No tf.data service answers at {address}: timed out"):
            through_service(tf.data.Dataset.range(3), address)
    assert set(caplog.messages) == {
        f"waiting for the tf.data service at {address}, which has not answered yet"
    }


def test_a_service_that_answers_is_not_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(data_service, "SECONDS_OF_PATIENCE", 1.0)
    dispatcher = start_dispatcher(0)
    data_service.check_address(dispatcher.target)
    time.sleep(1.1)
    assert not caplog.messages


def test_the_word_comes_before_five_seconds_and_the_end():
    assert data_service.SECONDS_OF_PATIENCE < min(5, data_service._SECONDS)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("dispatcher", "--port=99999"), "--port"),
        (("dispatcher", "--port=-1"), "--port"),
        (("worker", "--port=0", "--dispatcher=garbage"), "--dispatcher=garbage: The address of a"),
        (("worker", "--port=0", "--dispatcher=localhost:1"), "No tf.data service answers at grpc"),
        (("dispatcher", "--port=0", "--address=here"), "--address=here must have the form HOST:P"),
    ],
)
def test_a_command_that_cannot_start_says_why(run_command, arguments, sentence):
    done = run_command("tfrecords.data_service", *arguments)
    assert done.code != 0 and "Traceback" not in done.err
    assert sentence in done.out + done.err


def test_a_port_that_is_taken(run_command):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command("tfrecords.data_service", "dispatcher", f"--port={port}")
    assert done.code == 1
    assert f"The dispatcher cannot listen on --port={port}" in done.err
