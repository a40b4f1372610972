"""What a process of the tests' shared clusters runs: jobs one after the other, as tests give them.

Starting TensorFlow takes longer than they do. Usage: python -m cluster_jobs FOLDER DISTRIBUTION,
where FOLDER gets 1.json, 2.json and so on. Each process says on standard error how each job ended.
"""

import itertools
import json
import os
import pathlib
import sys
import time

import cluster_equality
from absl import logging

from tf_dlrm.errors import UserError
from tf_dlrm.training.distribution.choose import distribution_of
from tf_dlrm.training.distribution.parameter_server import is_server, serve
from tf_dlrm.training.distribution.processes import Processes
from tf_dlrm.training.options.config import DistributionOptions, TrainingConfig
from tf_dlrm.training.run import train


def _wait_for(path):
    while not path.exists():  # the test moves it here once it is whole
        time.sleep(0.1)
    return json.loads(path.read_text())


def _run(job, strategy):
    if job["kind"] == "equality":
        return cluster_equality.check(strategy)
    own = job["processes"][Processes(strategy).index % len(job["processes"])]
    for name, text in own["files"].items():
        pathlib.Path(name).write_text(text)
    config = TrainingConfig.from_json(own["config"])
    config.validate()
    train(config, strategy)
    return "done"


def main():
    """Runs the jobs of the folder until a signal comes."""
    logging.use_absl_handler()
    folder, distribution = pathlib.Path(sys.argv[1]), sys.argv[2]
    if distribution == "parameter_server" and is_server():
        serve()
    strategy = distribution_of(DistributionOptions(distribution)).make_strategy()
    # So that one relative path means another file in each process.
    own = folder / f"process_{Processes(strategy).index}"
    own.mkdir(exist_ok=True)
    os.chdir(own)
    for number in itertools.count(1):
        job = _wait_for(folder / f"{number}.json")
        try:
            outcome = _run(job, strategy)
        except UserError as error:  # all processes have it, and stay together
            outcome = f"refused: {error}"
        # On one line; any other error ends this process, and with it the cluster.
        print(f"job {number}: {' '.join(outcome.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
