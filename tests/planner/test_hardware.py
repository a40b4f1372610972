import dataclasses

import pytest

from tf_dlrm.planner import load_hardware, presets, this_machine
from tf_dlrm.planner.calibrate import calibrate, describe


def test_every_preset_loads_and_has_its_name():
    assert set(presets()) == {"cpu", "a100_node", "h100_node"}
    for name in presets():
        assert load_hardware(name).name == name


def test_file_round_trip(tmp_path, hardware):
    path = tmp_path / "round.toml"
    path.write_text(hardware.to_toml("First line\nand a second."))
    assert path.read_text().startswith("# First line\n# and a second.\n")
    assert load_hardware(str(path)) == hardware


def test_unknown_name_lists_the_presets():
    with pytest.raises(ValueError, match="'a100' is neither a file nor one of a100_node, cpu,"):
        load_hardware("a100")


def test_unknown_entry(tmp_path, hardware):
    path = tmp_path / "x.toml"
    path.write_text(hardware.to_toml() + "speed = 3\n")
    with pytest.raises(ValueError, match=r"x\.toml: there is no entry 'speed'; .*gemm_gflops"):
        load_hardware(str(path))


def test_missing_entry(tmp_path, hardware):
    path = tmp_path / "x.toml"
    lines = [line for line in hardware.to_toml().splitlines() if "row_read_gbs" not in line]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"x\.toml: the entry 'row_read_gbs' is missing\."):
        load_hardware(str(path))


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("shared", "1", "'shared' must be true or false, but is 1."),
        ("devices_per_host", "2.5", "must be a whole number of at least 1, but is 2.5."),
        ("devices_per_host", "0", "must be a whole number of at least 1, but is 0."),
        ("memory_gb", '"80"', "'memory_gb' must be a number above 0, but is '80'."),
        ("memory_gb", "true", "'memory_gb' must be a number above 0, but is True."),
        ("gemm_gflops", "0", "'gemm_gflops' must be a number above 0, but is 0."),
        ("gemm_gflops", "inf", "'gemm_gflops' must be a number above 0, but is inf."),
        ("gemm_gflops", "nan", "'gemm_gflops' must be a number above 0, but is nan."),
        ("step_overhead_us", "-1", "'step_overhead_us' must be a number of at least 0, but is -1."),
    ],
)
def test_wrong_value(tmp_path, hardware, key, value, sentence):
    path = tmp_path / "x.toml"
    lines = [
        f"{key} = {value}" if line.startswith(f"{key} =") else line
        for line in hardware.to_toml().splitlines()
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError) as error:
        load_hardware(str(path))
    assert str(path) in str(error.value) and sentence in str(error.value)


def test_a_latency_may_be_zero(tmp_path, hardware):
    path = tmp_path / "round.toml"
    free = dataclasses.replace(hardware, intra_host_latency_us=0)
    path.write_text(free.to_toml())
    assert load_hardware(str(path)) == free


def test_not_toml(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("devices_per_host: 2")
    with pytest.raises(ValueError, match=r"x\.toml is not TOML: "):
        load_hardware(str(path))


def test_devices_that_share_a_host_divide_its_memory(hardware):
    shared = dataclasses.replace(
        hardware, shared=True, devices_per_host=4, host_memory_gb=10.0, memory_gb=4.0
    )
    assert [shared.sharers(n) for n in (1, 3, 4, 9)] == [1, 3, 4, 4]
    # One device is bound by its own 4 GB, four by a quarter of 10 GB.
    assert [shared.device_memory(n) for n in (1, 4)] == [4e9, 2.5e9]
    assert hardware.device_memory(4) == 1e9 and hardware.sharers(4) == 1


def test_this_machine_has_its_own_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = int(file.readline().split()[1])
    assert this_machine().host_memory_gb == pytest.approx(kilobytes * 1024 / 1e9, rel=0.05)


@pytest.mark.slow
def test_calibration_gives_a_file_that_loads(tmp_path):
    measured = calibrate(devices_per_host=3)
    assert measured.devices_per_host == 3
    assert measured != this_machine()
    # Wide bounds that any machine of the last twenty years is within, and a wrong unit is not.
    assert 1 < measured.gemm_gflops < 1e5
    assert 0.05 < measured.row_update_gbs < 1e3
    assert 0.05 < measured.row_read_gbs < 1e3
    assert 0.5 < measured.unique_mids < 1e4
    path = tmp_path / "calibrated.toml"
    path.write_text(measured.to_toml(describe(measured)))
    assert load_hardware(str(path)) == measured
