"""The choice of the accelerator, on hosts described by files."""

from pathlib import Path

import pytest

from vruntime import accelerator, settings
from vruntime.accelerator import Accelerator
from vruntime.errors import AcceleratorError

WITHOUT = "processor\t: 0\nflags\t\t: fpu sse2\n\n"
INTEL = "processor\t: 0\nflags\t\t: fpu vmx sse2\nvmx flags\t: ept\n\nprocessor\t: 1\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm\n"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose CPU and /dev/kvm the test writes; its settings are as given."""
    monkeypatch.setattr(accelerator, "CPU_INFORMATION", tmp_path / "cpuinfo")
    monkeypatch.setattr(accelerator, "KVM_DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "config.toml")
    monkeypatch.setattr(settings, "DROP_INS", tmp_path / "config.d")

    def make(cpu: str, kvm: bool, text: str) -> settings.Settings:
        (tmp_path / "cpuinfo").write_text(cpu)
        if kvm:
            (tmp_path / "kvm").touch()
        (tmp_path / "config.toml").write_text(text)
        (tmp_path / "config.toml").chmod(0o644)
        return settings.load()

    return make


@pytest.mark.parametrize(
    ("cpu", "kvm", "text", "chosen"),
    [
        (INTEL, True, "", Accelerator.KVM),
        (AMD, True, "", Accelerator.KVM),
        (INTEL, True, "[vm]\naccelerator = 'kvm'", Accelerator.KVM),
        (INTEL, True, "[vm]\nallow_emulation = true", Accelerator.KVM),
        (INTEL, True, "[vm]\naccelerator = 'tcg'\nallow_emulation = true", Accelerator.TCG),
        (INTEL, False, "[vm]\nallow_emulation = true", Accelerator.TCG),
        (WITHOUT, True, "[vm]\nallow_emulation = true", Accelerator.TCG),
        ("", True, "[vm]\nallow_emulation = true", Accelerator.TCG),
    ],
)
def test_choice(host, cpu, kvm, text, chosen):
    assert accelerator.choose(host(cpu, kvm, text)) is chosen


@pytest.mark.parametrize(
    ("cpu", "kvm", "text", "reason"),
    [
        (
            WITHOUT,
            True,
            "",
            "emulation is not allowed, and KVM cannot be used: the CPU has neither",
        ),
        (INTEL, False, "", "kvm: No such file or directory: load the module kvm_intel or kvm_amd"),
        (INTEL, True, "[vm]\naccelerator = 'tcg'", "not allowed, and the settings ask for tcg"),
        (
            WITHOUT,
            True,
            "[vm]\naccelerator = 'kvm'\nallow_emulation = true",
            "KVM cannot be used: the CPU has neither VT-x (vmx) nor AMD-V (svm)",
        ),
    ],
)
def test_refusal_says_why(host, cpu, kvm, text, reason):
    with pytest.raises(AcceleratorError) as caught:
        accelerator.choose(host(cpu, kvm, text))
    assert reason in str(caught.value)


def test_refusal_names_the_setting_and_the_flag(host):
    with pytest.raises(AcceleratorError) as caught:
        accelerator.choose(host(WITHOUT, True, ""))
    assert "allow_emulation = true below [vm]" in str(caught.value)
    assert "--allow-emulation" in str(caught.value)


def test_only_kvm_is_secure():
    assert Accelerator.KVM.secure
    assert not Accelerator.TCG.secure


def test_flags_of_this_cpu():
    assert "fpu" in accelerator.cpu_flags()
    assert Path("/proc/cpuinfo").read_text().count(next(iter(accelerator.cpu_flags())))
