"""What the clients of names do, and the repository that is cloned."""

import os
import subprocess
from pathlib import Path

import pytest
from benchmarks import probe
from benchmarks.errors import BenchmarkError
from benchmarks.speed.names import make_repository


def run(operation: str, directory: Path, count: int, clients: int) -> dict[str, object]:
    return probe.names(operation, str(directory), str(count), str(clients))


@pytest.mark.parametrize("clients", [1, 3])
def test_each_client_does_its_part_of_the_operations(tmp_path: Path, clients: int) -> None:
    for number in range(clients):
        (tmp_path / str(number)).mkdir()

    def names() -> list[list[str]]:
        return [sorted(os.listdir(tmp_path / str(number))) for number in range(clients)]

    made = [f"{number:05}" for number in range(4)]
    count = 4 * clients
    assert run("create", tmp_path, count, clients)["ns"] > 0  # type: ignore[operator]
    assert names() == [made] * clients
    with pytest.raises(FileExistsError):
        run("create", tmp_path, count, clients)
    for operation in ("lookup", "stat", "open"):
        run(operation, tmp_path, count, clients)
    run("rename", tmp_path, count, clients)
    assert names() == [[f"r{name}" for name in made]] * clients
    with pytest.raises(FileNotFoundError):
        run("open", tmp_path, count, clients)
    run("unlink", tmp_path, count, clients)
    assert names() == [[]] * clients


def test_all_clients_list_the_same_directory(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / str(number)).touch()
    assert run("readdir", tmp_path, 3, 3)["results"] == (7, 7, 7)


def test_a_client_without_its_directory_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    with pytest.raises(FileNotFoundError):
        run("create", tmp_path, 4, 2)
    assert os.listdir(tmp_path / "0") == []


def test_a_file_is_made_durable_and_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "image"
    file.write_bytes(bytes(4 * probe.BLOCK))
    taken = probe.fsyncs(str(file), "0.01")
    assert len(taken["fsync"]) == len(taken["fsync_clean"]) > 0
    assert any(file.read_bytes())
    assert file.stat().st_size == 4 * probe.BLOCK
    assert min(probe.stats(str(file), "0.01", "0.001")["stat"]) > 0


def test_the_repository_is_the_same_each_time_and_has_its_files(tmp_path: Path) -> None:
    heads = set()
    for name in ("a", "b"):
        make_repository(tmp_path / name, 70)
        git = ["git", "-C", tmp_path / name]
        heads.add(subprocess.check_output([*git, "rev-parse", "main"]))
        listed = subprocess.check_output([*git, "ls-tree", "-r", "--name-only", "main"], text=True)
        assert len(listed.splitlines()) == 70
    assert len(heads) == 1


def test_a_repository_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchmarkError, match="file"):
        make_repository(tmp_path / "file" / "repository", 1)
