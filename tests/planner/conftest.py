import pytest

from tf_dlrm.planner import Hardware


@pytest.fixture(scope="session")
def hardware() -> Hardware:
    """Two devices a host, with round numbers."""
    return Hardware(
        name="round",
        devices_per_host=2,
        shared=False,
        memory_gb=1.0,
        host_memory_gb=10.0,
        gemm_gflops=1000.0,
        memory_gbs=100.0,
        row_read_gbs=10.0,
        row_update_gbs=5.0,
        min_row_bytes=32,
        unique_mids=50.0,
        intra_host_gbs=20.0,
        intra_host_latency_us=7.0,
        inter_host_gbs=4.0,
        inter_host_latency_us=11.0,
        step_overhead_us=100.0,
    )
