import socket

import pytest
import tensorflow as tf

from tfrecords.data_service import start_dispatcher, start_worker, through_service
from tfrecords.errors import DataError
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
