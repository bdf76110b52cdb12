"""Free memory is the smaller of what the host and the container leave."""

from pathlib import Path

from cloud_server.engines.host_memory import available_bytes

GIB = 1 << 30


def _meminfo(folder: Path, num_bytes: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {num_bytes // 1024} kB\n")
    return path


def _cgroup(folder: Path, limit: str, current: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 17\ninactive_file {GIB}\n")
    return folder


def test_without_a_container_the_host_decides(tmp_path):
    assert available_bytes(_meminfo(tmp_path, 5 * GIB), tmp_path / "none") == 5 * GIB


def test_a_container_s_limit_counts_and_its_file_pages_are_free(tmp_path):
    cgroup = _cgroup(tmp_path, str(4 * GIB), 3 * GIB)
    assert available_bytes(_meminfo(tmp_path, 5 * GIB), cgroup) == 2 * GIB


def test_a_container_without_a_limit_leaves_the_host_s(tmp_path):
    cgroup = _cgroup(tmp_path, "max", 3 * GIB)
    assert available_bytes(_meminfo(tmp_path, 5 * GIB), cgroup) == 5 * GIB


def test_a_full_container_has_nothing(tmp_path):
    cgroup = _cgroup(tmp_path, str(GIB), 3 * GIB)
    assert available_bytes(_meminfo(tmp_path, 5 * GIB), cgroup) == 0


def test_a_system_without_meminfo_has_something(tmp_path):
    assert available_bytes(tmp_path / "none", tmp_path / "none") > 0
