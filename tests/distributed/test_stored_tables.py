"""Tables stored as smaller ones learn over real processes what they learn on one device."""

import json

import pytest

from tf_dlrm.training.run import train

_STORAGES = {
    # Bags of three ids: their products are made one by one.
    "multiplied": {"table_storage": "quotient_remainder", "random_indices_per_lookup": 3},
    "mixed": {"table_storage": "mixed_dimensions", "mixed_dimensions_temperature": 1.0},
}
_CLUSTERS = {
    "multi_worker_mirrored": ["--workers=2"],
    "parameter_server": ["--workers=1", "--parameter_servers=2"],
}


@pytest.mark.parametrize("distribution", _CLUSTERS)
def test_processes_learn_what_one_device_learns(tiny, tmp_path, start, last_metrics, distribution):
    jobs = {}
    for name, options in _STORAGES.items():
        common = {**options, "storage_from_rows": 60, "train_steps": 20}
        train(tiny(tmp_path / name / "one", **common))
        jobs[name] = tiny(tmp_path / name / "many", **common, distribution=distribution)
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps([job.to_json() for job in jobs.values()]))
    cluster = start(*_CLUSTERS[distribution], "--module=cluster_jobs", "--", str(path))
    code, _ = cluster.finish()
    assert code == 0, cluster.text()
    losses = set()
    for name in jobs:
        one, many = (last_metrics(tmp_path / name / where) for where in ("one", "many"))
        assert one[0] == 20
        assert many == pytest.approx(one, rel=1e-4), name
        losses.add(one[2])
    assert len(losses) == len(jobs)
