"""Every attack of the table, really attempted and denied: as this user and, if that is root, as an unprivileged one."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import landlockpy
import pytest
import sandbox_attacks
import seccompy
from sandbox_attacks import ACTS, ATTACKS, FORGERIES, FREE, LIMITS, NAIVE, PRELOAD, Attack, attempt, targets, try_all

import boostlib.sandbox
from boostlib.sandbox import CodeSandbox, probe_isolation

pytestmark = [
    pytest.mark.skipif(not probe_isolation(), reason="no seccomp here: nothing can be contained"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the raw system calls are numbered for x86-64"),
]
NOBODY = 65534
HARMLESS = [attack for attack in ACTS if attack.harmless]


def _interpreter() -> str | None:
    """One that an unprivileged user can run: this one may lie in a private home."""
    recent = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", recent], user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0:
                return python
    return None


@pytest.fixture(scope="module")
def as_this_user() -> dict[str, dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_TEST_SECRET", "1")
        with CodeSandbox(workers=1, limits=LIMITS, preload=PRELOAD) as box:
            return try_all(box)


@pytest.fixture(scope="module")
def as_nobody() -> dict[str, dict]:
    if os.geteuid() != 0:
        pytest.skip("not root: this user is already an unprivileged one")
    python = _interpreter()
    if python is None:
        pytest.skip("no Python 3.11 that an unprivileged user can run")
    with _public_copy() as folder:
        return _driven([python, f"{folder}/drive.py"], probe_isolation(), user=NOBODY, group=NOBODY, extra_groups=[])


@contextlib.contextmanager
def _public_copy() -> Iterator[Path]:
    """The driver and what it needs, in a folder that everyone can read: pytest's own is its user's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sandbox = Path(boostlib.sandbox.__file__).parent
        shutil.copytree(sandbox, folder / "boostlib" / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "boostlib" / "common").mkdir()
        for file in ("__init__.py", "errors.py"):
            shutil.copy(sandbox.parent / "common" / file, folder / "boostlib" / "common")
        (folder / "boostlib" / "__init__.py").touch()  # without the rest of the library, and torch
        for package in (seccompy, landlockpy):
            shutil.copytree(Path(package.__file__).parent, folder / package.__name__)
        shutil.copy(sandbox_attacks.__file__, folder / "drive.py")
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        yield folder


def _driven(command: list[str], isolation: str, **user) -> dict[str, dict]:
    """What the driver saw, run as a script with nothing in its environment."""
    env = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=env, cwd="/", timeout=100, capture_output=True, text=True, **user)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["isolation"] == isolation and report["user"] == user.get("user", os.geteuid())
    return report["attacks"]


def _assert_denied(attack: Attack, seen: dict) -> None:
    status, _, detail = attack.ends.partition(" ")
    assert seen["ended"].startswith(status) and detail in seen["ended"]
    assert not seen["ended"].startswith("passed")
    assert seen["honest"]
    assert seen["left"] == []


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("user", ["as_this_user", "as_nobody"])
def test_denied_and_the_next_honest_run_passes(user, name, request):
    _assert_denied(ATTACKS[name], request.getfixturevalue(user)[name])


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [[], ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]])
def test_seccomp_alone_denies_all_of_them_too(wrapped):
    """As on a kernel without Landlock; and for a root whose container has taken its capabilities away."""
    if wrapped and (os.geteuid() != 0 or not shutil.which("setpriv")):
        pytest.skip("needs root, and setpriv")
    with _public_copy() as folder:
        with (folder / "landlockpy" / "__init__.py").open("a") as file:
            file.write("\n\ndef abi_version():\n    return 0\n")
        report = _driven([*wrapped, sys.executable, f"{folder}/drive.py"], "seccomp")
    for name, seen in report.items():
        _assert_denied(ATTACKS[name], seen)


# --- controls: a denial means something only if the act works where nothing denies it


@pytest.fixture(scope="module")
def free_box():
    with (
        pytest.warns(UserWarning, match="uncontained"),
        CodeSandbox(workers=1, limits=FREE, preload=PRELOAD, unsafe=True) as box,
    ):
        yield box


@pytest.mark.parametrize("attack", HARMLESS, ids=lambda attack: attack.name)
def test_harmless_acts_succeed_without_containment(attack: Attack, free_box):
    if attack.root and os.geteuid() != 0:
        pytest.skip("needs root")
    with targets() as prelude:
        result = attempt(free_box, prelude, attack)
    if attack.name in ("io_uring", "user_namespace") and not result.passed:
        pytest.skip(f"switched off on this machine: {result.detail}")
    assert result.passed, result.detail


@pytest.mark.parametrize("attack", [attack for attack in FORGERIES if attack.harmless], ids=lambda attack: attack.name)
def test_forgeries_fool_a_shared_interpreter(attack: Attack):
    naive = [sys.executable, "-I", "-S", "-c", NAIVE, attack.code, attack.tests]
    done = subprocess.run(naive, capture_output=True, text=True, timeout=20, env={"SANDBOX_TEST_SECRET": "1"})
    assert done.returncode == 0 or "PASSED" in done.stdout


def test_the_table_is_long_and_most_of_it_has_a_control():
    assert len(ATTACKS) >= 90 and len(ATTACKS) == len(ACTS) + len(FORGERIES)
    assert sum(attack.harmless for attack in ATTACKS.values()) >= 65
