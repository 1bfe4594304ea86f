"""Profiles: where they are found, what may be in them, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import ConfigError, Resources
from slurm.profile import Profile
from slurm.profile_files import changed, find_profile, load_profile, profile_folders, read_profile


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the developer's profiles nor the checkout's are found."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistake(text: str) -> str:
    """What is said about a profile with that text, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        read_profile(write(Path("p.yaml"), text))
    return str(caught.value)


def test_a_full_profile_is_read() -> None:
    profile = read_profile(
        write(
            Path("p.yaml"),
            """
partition: gpu
account: 0123
qos: 7
gpus: 2
gpu_option: gpus_per_node
gpu_type: a100
cpus: 8
memory_gib: 31.5
minutes: 6h
max_minutes: 1440
setup: |
  module load cuda
  source env.sh
use_srun: no
keep_env: [SLURM_EXPORT_ENV]
additional_parameters: {exclude: node7, mail-type: END, exclusive: true}
""",
        )
    )
    assert (profile.partition, profile.account, profile.qos) == ("gpu", "0123", "7")
    assert profile.resources == Resources(gpus=2, cpus=8, memory_gib=31.5, minutes=360)
    assert (profile.max_minutes, profile.use_srun) == (1440, False)
    assert profile.setup == ("module load cuda", "source env.sh")
    assert profile.additional_parameters == {"exclude": "node7", "mail_type": "END", "exclusive": True}


def test_an_empty_file_is_the_defaults() -> None:
    assert read_profile(write(Path("p.yaml"), "# nothing\n")) == Profile()


def test_the_examples_of_the_suite_are_valid() -> None:
    assert load_profile("cpu").gpus == 0
    assert load_profile("gpu").resources == Resources(gpus=1, cpus=8, memory_gib=32, minutes=360)


def test_a_profile_here_goes_before_the_users_and_the_users_before_the_suites() -> None:
    here, users, _ = profile_folders()
    write(users / "cpu.yaml", "cpus: 2")
    assert load_profile("cpu").cpus == 2
    write(here / "cpu.yaml", "cpus: 3")
    assert load_profile("cpu").cpus == 3
    write(Path("elsewhere/cpu.yaml"), "cpus: 5")
    assert load_profile("elsewhere/cpu.yaml").cpus == 5


def test_an_unknown_name_shows_the_nearest_the_legal_ones_and_where_a_new_one_goes() -> None:
    write(Path("slurm/leonardo.yaml"), "")
    with pytest.raises(ConfigError) as caught:
        find_profile("leonado")
    text = str(caught.value)
    assert "profile 'leonado' is unknown. Did you mean 'leonardo'?" in text
    assert "legal: cpu, gpu, leonardo" in text
    assert ".config/bnnbench/slurm/leonado.yaml" in text
    with pytest.raises(ConfigError, match="no such file"):
        find_profile("nowhere/x.yaml")


@pytest.mark.parametrize("written", ["10:00:00", '"00:30:00"', "1:30"])
def test_a_time_with_a_colon_is_refused_with_file_line_and_legal_forms(written: str) -> None:
    text = mistake(f"cpus: 2\nminutes: {written}\n")
    assert text.startswith(f"p.yaml:2: minutes = '{written.strip(chr(34))}': a time limit has no colon")
    assert 'write 90 or "90m" for minutes, "6h" for hours' in text


def test_an_unknown_setting_shows_line_nearest_and_legal_ones() -> None:
    text = mistake("cpus: 2\n\npartitoin: gpu\n")
    assert text.startswith("p.yaml:3: setting 'partitoin' is unknown. Did you mean 'partition'?\n  legal: partition,")
    assert "additional_parameters" in text


@pytest.mark.parametrize(
    ("written", "ours"), [("time: 90", "minutes"), ("mem: 8G", "memory_gib"), ("gres: gpu:1", "gpu_option")]
)
def test_a_name_of_slurms_is_answered_with_ours(written: str, ours: str) -> None:
    assert ours in mistake(written)


def test_all_mistakes_are_reported_at_once() -> None:
    text = mistake("cpus: 0\ngpu_option: gress\nmail_user: [a]\n")
    assert [line.split(" ")[0] for line in text.splitlines()] == ["p.yaml:1:", "p.yaml:2:", "p.yaml:3:"]
    assert "Did you mean 'gres'?" in text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("exclude: null", "'exclude' has the value None"),
        ("exclusive: false", "'exclusive' has the value False"),
        ("time: 90", "the profile's minutes says it"),
        ("job-name: x", "'job-name' is written by the launcher"),
        ("signal: USR1@60", "signal and margin_s"),
        ("p: gpu", "not a long name"),
        ('"--exclude": a, exclude: b', "given twice"),
        ('exclude: "a\\nb"', "one line"),
    ],
)
def test_options_that_sbatch_or_the_launcher_would_misread_are_refused(written: str, said: str) -> None:
    text = mistake(f"additional_parameters: {{{written}}}\n")
    assert text.startswith("p.yaml:1: additional_parameters = ")
    assert said in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus: [", "p.yaml:1: not valid YAML"),
        ("cpus: 1\ncpus: 2\n", "p.yaml:2: 'cpus' is given twice"),
        ("- cpus\n", "p.yaml:1: a profile is a mapping"),
        ('partition: "a\\nb"', "p.yaml:1: partition = "),
        ("setup:\n- echo a\n- '#SBATCH --exclusive'\n", "put it under additional_parameters"),
    ],
)
def test_damaged_files_are_named_with_their_line(text: str, said: str) -> None:
    assert said in mistake(text)


def test_a_study_changes_a_profile_and_its_mistakes_name_it() -> None:
    profile = load_profile("gpu")
    narrow = changed(profile, {"max_parallel": 4, "minutes": "90m"}, "study.yaml:7")
    assert (narrow.max_parallel, narrow.minutes, narrow.gpus) == (4, 90, 1)
    with pytest.raises(ConfigError, match=r"study\.yaml:7: setting 'max_paralel' is unknown\. Did you mean"):
        changed(profile, {"max_paralel": 4}, "study.yaml:7")
