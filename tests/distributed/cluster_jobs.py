"""What a process of a test's cluster runs: trainings one after the other, under one strategy.

Starting TensorFlow takes longer than they do. Usage: python -m cluster_jobs JOBS.json
"""

import json
import sys

from absl import logging

from tf_dlrm.training.config import TrainingConfig
from tf_dlrm.training.parameter_server import is_server, serve
from tf_dlrm.training.run import train
from tf_dlrm.training.strategy import make_strategy


def main():
    """Runs the jobs of the file."""
    logging.use_absl_handler()
    with open(sys.argv[1], encoding="utf-8") as file:
        configs = [TrainingConfig.from_json(job) for job in json.load(file)]
    distribution = configs[0].distribution
    if distribution.distribution == "parameter_server" and is_server():
        serve()
    strategy = make_strategy(distribution)
    for config in configs:
        config.validate()
        train(config, strategy)


if __name__ == "__main__":
    main()
