"""The Kubernetes manifests: parts that refer to each other do, and processes find each other."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess

import pytest
import yaml

from tf_dlrm.training.options.config import TrainingConfig

_FOLDER = pathlib.Path(__file__).parent.parent / "kubernetes"


def _load(name):
    return list(yaml.safe_load_all((_FOLDER / name).read_text()))


def _container(workload):
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def _task(workload, index, tmp_path):
    """Runs the command of a pod up to the training, which here shows its environment."""
    container = _container(workload)
    (script,) = container["args"]
    name = workload["metadata"]["name"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    environment |= {"PATH": os.environ["PATH"], "HOSTNAME": f"{name}-{index}"}
    if workload["kind"] == "Job":  # whose pods have names with a random end
        environment |= {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"{name}-{index}-x7k2p"}
    shown = script[: script.index("exec python")] + 'printf %s "$TF_CONFIG"'
    output = subprocess.run(
        [*container["command"], shown], env=environment, capture_output=True, text=True, check=True
    ).stdout
    return json.loads(output)


def _pods(workload):
    return workload["spec"].get("replicas") or workload["spec"]["completions"]


@pytest.mark.parametrize("name", ["multi_worker.yaml", "parameter_server.yaml"])
def test_parts_that_refer_to_each_other_exist(name):
    service, *workloads = _load(name)
    port = service["spec"]["ports"][0]["port"]
    assert service["spec"]["clusterIP"] == "None"
    for workload in workloads:
        spec, template = workload["spec"], workload["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        assert spec.get("serviceName", template["spec"].get("subdomain")) == "tf-dlrm"
        assert service["metadata"]["name"] == "tf-dlrm"
        assert _container(workload)["ports"] == [{"containerPort": port}]
        if workload["kind"] == "StatefulSet":
            assert spec["selector"]["matchLabels"] == labels
        else:
            assert spec["completions"] == spec["parallelism"]
            assert spec["completionMode"] == "Indexed"
        mounted = {mount["name"] for mount in _container(workload)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("multi_worker.yaml", {"worker": 2}),
        ("parameter_server.yaml", {"chief": 1, "ps": 2, "worker": 2}),
    ],
)
def test_every_pod_gets_its_place_in_one_cluster(name, counts, tmp_path):
    _, *workloads = _load(name)
    cluster = {
        role: [f"tf-dlrm-{role}-{k}.tf-dlrm:2222" for k in range(count)]
        for role, count in counts.items()
    }
    tasks = []
    for workload in workloads:
        for index in range(_pods(workload)):
            found = _task(workload, index, tmp_path)
            assert found["cluster"] == cluster
            role = found["task"]["type"]
            assert workload["metadata"]["name"] == f"tf-dlrm-{role}"
            assert found["task"]["index"] == index
            tasks.append((role, index))
    assert sorted(tasks) == [(r, k) for r, count in counts.items() for k in range(count)]


@pytest.mark.parametrize("name", ["multi_worker.yaml", "parameter_server.yaml"])
def test_the_flags_exist(name):
    # Not by importing tf_dlrm.train: another entry point here may have defined its flags.
    config = TrainingConfig()
    options = {
        field.name: field
        for part in dataclasses.fields(config)
        for field in dataclasses.fields(getattr(config, part.name))
    }
    _, *workloads = _load(name)
    for workload in workloads:
        (script,) = _container(workload)["args"]
        used = dict(re.findall(r"--(\w+)=(\S+)", script[script.index("exec python") :]))
        assert used.keys() <= {*options, "flagfile"}
        assert used["distribution"] in options["distribution"].metadata["choices"]


@pytest.mark.parametrize("name", ["multi_worker.yaml", "parameter_server.yaml"])
def test_all_pods_run_one_command_and_may_end_in_peace(name):
    _, *workloads = _load(name)
    scripts = {
        _container(workload)["args"][0].partition("exec python")[2] for workload in workloads
    }
    (script,) = scripts
    assert re.search(r"--model_dir=/data/", script) and "--checkpoint_every_steps=" in script
    distribution = name.removesuffix(".yaml").replace("worker", "worker_mirrored")
    assert f"--distribution={distribution} " in script
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        # Long enough for the checkpoint that SIGTERM asks for, where one is written.
        writes = workload["kind"] == "Job"
        assert pod["terminationGracePeriodSeconds"] >= (300 if writes else 10)
        assert pod.get("restartPolicy", "Always") == ("OnFailure" if writes else "Always")
        paths = {mount["mountPath"] for mount in _container(workload)["volumeMounts"]}
        assert all(any(path.startswith(f"{p}/") for p in paths) for path in _paths(script))


def _paths(script):
    return re.findall(r"=(/\S+)", script)
