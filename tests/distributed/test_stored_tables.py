"""Tables stored as smaller ones learn over real processes what they learn on one device."""

import pytest

from tf_dlrm.training.run import train

pytestmark = pytest.mark.process

_STORAGES = {
    # Bags of three ids: their products are made one by one.
    "multiplied": {"table_storage": "quotient_remainder", "random_indices_per_lookup": 3},
    "mixed": {"table_storage": "mixed_dimensions", "mixed_dimensions_temperature": 1.0},
}


@pytest.mark.parametrize(
    ("distribution", "cluster"),
    [("multi_worker_mirrored", "two_workers"), ("parameter_server", "two_servers")],
)
@pytest.mark.parametrize("storage", _STORAGES)
def test_processes_learn_what_one_device_learns(
    tiny, tmp_path, request, last_metrics, distribution, cluster, storage, one_device
):
    common = {**_STORAGES[storage], "storage_from_rows": 60, "train_steps": 20}
    many = tiny(tmp_path, **common, distribution=distribution)
    ended = request.getfixturevalue(cluster).train(many)
    assert set(ended) == {"done"}
    one = one_device(storage, common)
    assert one[0] == 20
    assert last_metrics(tmp_path) == pytest.approx(one, rel=1e-4)


@pytest.fixture(scope="module")
def one_device(tiny, tmp_path_factory, last_metrics):
    """Returns a function that trains on one device, once, and returns the metrics."""
    made = {}

    def run(storage, options):
        if storage not in made:
            folder = tmp_path_factory.mktemp(storage)
            train(tiny(folder, **options))
            made[storage] = last_metrics(folder)
            assert list(made.values()).count(made[storage]) == 1  # not the same model twice
        return made[storage]

    return run
