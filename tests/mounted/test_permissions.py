"""Who may do what through a real mount, and to whom what is made there belongs."""

from __future__ import annotations

import os
import stat
import subprocess

from tests.support import MountFactory, let_others_in, needs_root

NOBODY = 65534


@needs_root("become another user")
def test_acls_are_enforced(make_mount: MountFactory) -> None:
    mounted = make_mount("allow_other")
    os.chmod(mounted.path.parent, 0o711)
    path = mounted.path / "f"
    path.write_text("secret")
    os.chmod(path, 0o600)
    read = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "cat", str(path)]
    let_others_in(mounted.path)
    assert subprocess.run(read, capture_output=True, check=False).returncode != 0
    subprocess.run(["setfacl", "-m", f"u:{NOBODY}:r", path], check=True)
    assert subprocess.run(read, capture_output=True, check=True).stdout == b"secret"
    got = subprocess.run(
        ["getfacl", "-cn", mounted.source / "f"], capture_output=True, text=True, check=True
    )
    assert f"user:{NOBODY}:r--" in got.stdout


@needs_root("become another user")
def test_files_belong_to_who_creates_them(make_mount: MountFactory) -> None:
    mounted = make_mount("allow_other")
    os.chmod(mounted.path, 0o777)
    (mounted.path / "setgid").mkdir()
    os.chown(mounted.path / "setgid", 0, 77)
    os.chmod(mounted.path / "setgid", 0o2777)
    let_others_in(mounted.path)
    script = "touch f; mkdir d; ln -s x l; mkfifo p; touch setgid/f; mkdir setgid/d; chmod 4755 f"
    subprocess.run(
        ["setpriv", "--reuid=1234", "--regid=4321", "--clear-groups", "sh", "-ec", script],
        cwd=mounted.path,
        check=True,
    )
    for name in ("f", "d", "l", "p"):
        st = os.lstat(mounted.source / name)
        assert (st.st_uid, st.st_gid) == (1234, 4321), name
    for name in ("setgid/f", "setgid/d"):
        st = os.lstat(mounted.source / name)
        assert (st.st_uid, st.st_gid) == (1234, 77), name
    assert os.stat(mounted.source / "setgid/d").st_mode & stat.S_ISGID


@needs_root("become another user")
def test_permissions_are_those_of_the_files(make_mount: MountFactory) -> None:
    mounted = make_mount("allow_other")
    let_others_in(mounted.path)
    (mounted.path / "private").write_text("x")
    os.chmod(mounted.path / "private", 0o600)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for command in (
        ["cat", "private"],
        ["rm", "-f", "private"],
        ["touch", "new"],
        ["chmod", "666", "private"],
    ):
        result = subprocess.run(
            [*as_nobody, *command], cwd=mounted.path, capture_output=True, check=False
        )
        assert result.returncode != 0, command
    assert os.listdir(mounted.source) == ["private"]
