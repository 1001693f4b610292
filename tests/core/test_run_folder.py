"""Files are written atomically; locks end with their holder."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hptransfer.core import io, locks
from hptransfer.core.errors import RunFolderError, StoppedError
from hptransfer.core.io import filter_jsonl, read_json, read_jsonl, write_json
from hptransfer.core.locks import LockedError, lock, locked_by
from hptransfer.core.records import Scale
from hptransfer.core.run_folder import RunFolder, disk_errors


def test_json_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"lr": 0.1 + 0.2, "name": "x"})
    assert read_json(tmp_path / "a.json") == {"lr": 0.1 + 0.2, "name": "x"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"value": 1})
    monkeypatch.setattr(io.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"value": 2})
    assert read_json(path) == {"value": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_infinity_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("inf")})
    assert not (tmp_path / "a.json").exists()


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(RunFolderError, match="upgrade hptransfer"):
        read_json(tmp_path / "a.json")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert read_jsonl(tmp_path / "m.jsonl") == [{"step": 1}, {"step": 2}]


def test_a_lock_names_its_holder_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert locked_by(path) is None
    with lock(path):
        holder = locked_by(path)
        assert holder is not None
        assert holder["pid"] == os.getpid()
        with pytest.raises(LockedError), lock(path):
            pass
    assert locked_by(path) is None


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""
        import time
        from pathlib import Path
        from hptransfer.core.locks import lock
        with lock(Path({str(path)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert locked_by(path) is not None
        holder.send_signal(signal.SIGKILL)
    assert locked_by(path) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_work_goes_on_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with lock(tmp_path / "lock"):
        assert locked_by(tmp_path / "lock") is None


def test_what_is_cut_out_of_a_file_is_gone_and_a_torn_line_with_it(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    filter_jsonl(path, lambda row: True)
    assert path.read_text() == ""
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    filter_jsonl(path, lambda row: row["step"] <= 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written.*choose another place"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_full_disk_stops_with_a_message(tmp_path: Path) -> None:
    with (
        pytest.raises(StoppedError, match=r"No space left.*finished trials are kept"),
        disk_errors(RunFolder(tmp_path)),
    ):
        raise OSError(28, "No space left on device")


def test_scales_that_print_alike_have_verification_files_of_their_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    one, other = Scale({"width": 1.00011}), Scale({"width": 1.00012})
    assert one.name == other.name
    write_json(folder.verification_of(one), {"scale": dict(one.axes), "regret_nats": 0.1})
    write_json(folder.verification_of(other), {"scale": dict(other.axes), "regret_nats": 0.2})
    assert [read["regret_nats"] for scale in (one, other) if (read := folder.read_verification_of(scale))] == [0.1, 0.2]


def test_a_verification_under_its_old_name_is_read_for_its_own_scale_only(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    one, other = Scale({"width": 1.00011}), Scale({"width": 1.00012})
    assert folder.read_verification_of(one) is None
    write_json(tmp_path / "verification-width=1.json", {"scale": dict(one.axes), "regret_nats": 0.1})
    read = folder.read_verification_of(one)
    assert read is not None
    assert read["regret_nats"] == 0.1
    assert folder.read_verification_of(other) is None
