"""The kind of distribution that the options name."""

from __future__ import annotations

from collections.abc import Mapping

from tf_dlrm.training.distribution.distribution import Distribution
from tf_dlrm.training.distribution.mirrored import Mirrored
from tf_dlrm.training.distribution.multi_worker_mirrored import MultiWorkerMirrored
from tf_dlrm.training.distribution.one_device import OneDevice
from tf_dlrm.training.distribution.parameter_server import ParameterServer
from tf_dlrm.training.distribution.tpu import Tpu
from tf_dlrm.training.options.distribution import DistributionOptions

DISTRIBUTIONS: Mapping[str, type[Distribution]] = {
    "one_device": OneDevice,
    "mirrored": Mirrored,
    "multi_worker_mirrored": MultiWorkerMirrored,
    "parameter_server": ParameterServer,
    "tpu": Tpu,
}


def distribution_of(options: DistributionOptions) -> Distribution:
    """Returns what the options name.

    Raises:
        UserError: If TF_CONFIG names a cluster that does not fit.
    """
    distribution = DISTRIBUTIONS[options.distribution](options)
    distribution.check_cluster()
    return distribution
