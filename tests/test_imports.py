"""The arrows between the packages, and the few rules about where a thing may be done."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    *("networks", "losses", "metrics", "images", "datamodules", "lightning_modules"),
    *(
        "evaluation",
        "inference",
        "exporting",
        "serving",
        "ablation",
        "pretraining",
        "commands",
        "one_step",
        "benchmarks",
    ),
)
# that all may import; they import storage at most
SHARED = ("storage", "limits", "prompt_embeddings", "adapter_hub", "packaged_adapters", "ray_cluster")
SOURCES = [
    *(ROOT / f"{name}.py" for name in SHARED),
    *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
]

# importer -> what it may import of ours, by the longest prefix that fits it; `SHARED` may be imported by all
BELOW_COMMANDS = {
    package for package in PACKAGES if package not in ("pretraining", "commands", "one_step", "benchmarks")
}
ARROWS = {
    **{name: set() for name in SHARED},
    "images": {"images"},
    "networks": {"networks"},
    "losses": {"losses", "networks"},
    "metrics": {"metrics", "networks", "images.ranges"},
    "datamodules": {"datamodules", "images"},
    "datamodules.batches": set(),
    "lightning_modules": {"lightning_modules", "losses", "networks", "datamodules.batches"},
    "lightning_modules.callbacks": {
        *("lightning_modules", "evaluation", "metrics", "networks", "datamodules.batches"),
    },
    "evaluation": {"evaluation", "metrics", "networks", "images", "datamodules.batches"},
    "inference": {"inference", "images", "networks"},
    # What serves an exported model: without torch, which networks and metrics import.
    "inference.backends.exported": {"inference.backends", "images"},
    "inference.backends.onnx": {"inference.backends.exported", "images"},
    "inference.backends.openvino": {"inference.backends.exported", "images"},
    "exporting": {"exporting", "inference", "networks", "metrics", "evaluation", "images"},
    "serving": {"serving", "inference", "images"},
    "ablation": {"ablation", "metrics.scores", "evaluation.compare"},
    "pretraining": {"pretraining", *BELOW_COMMANDS},
    "commands": BELOW_COMMANDS | {"commands"},
    "commands.pocket": {"commands", "pretraining", *BELOW_COMMANDS},
    # For other programs: nothing of ours imports it.
    "one_step": {"inference", "networks"},
    "one_step.command_line": {"commands"},
    "benchmarks": {"benchmarks", "commands", *BELOW_COMMANDS},
}
# Callbacks are named in YAML; these add the ones that no overlay may lose, and tell the best checkpoint's test.
IMPORTS_CALLBACKS = {"commands.cli.lightning_cli", "commands.cli.training"}
FORBIDDEN_LIBRARIES = {
    "networks": {"lightning", "pytorch_lightning", "yaml", "omegaconf", "jsonargparse"},
    "losses": {"lightning", "pytorch_lightning", "yaml", "omegaconf", "jsonargparse"},
    "metrics": {"lightning", "pytorch_lightning", "yaml", "omegaconf", "jsonargparse"},
    "images": {"torch", "torchvision"},  # exported models are served without
    "serving": {"lightning", "pytorch_lightning"},
    "datamodules": {"diffusers", "peft", "transformers", "timm"},
}
OPENS_WEIGHTS = {"networks.one_step.bases", "networks.features.loading", "networks.pretrained"}


def module_name(path, root=ROOT):
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module, prefix):
    return module == prefix or module.startswith(f"{prefix}.")


def imported_modules(tree, name, is_package=False):
    """Every module a file imports, anywhere in it; `from a import b` counts as a.b where that is a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if is_package else name.split(".")[:-1]
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                child = f"{base}.{alias.name}"
                path = ROOT / child.replace(".", "/")
                yield child if path.is_dir() or path.with_suffix(".py").is_file() else base


def wrong_arrows(name, tree, is_package=False):
    rule = max((prefix for prefix in ARROWS if within(name, prefix)), key=len)
    wrong = []
    for module in imported_modules(tree, name, is_package):
        top = module.split(".")[0]
        if top in PACKAGES and not any(within(module, allowed) for allowed in ARROWS[rule]):
            wrong.append(f"{name} imports {module}")
        if within(module, "lightning_modules.callbacks") and not within(name, "lightning_modules.callbacks"):
            if name not in IMPORTS_CALLBACKS:
                wrong.append(f"{name} imports {module}: only YAML and the train command name callbacks")
        if top in FORBIDDEN_LIBRARIES.get(name.split(".")[0], ()):
            wrong.append(f"{name} imports {module}")
    return wrong


def literal_devices(tree):
    """Device names written into a call, such as `.to("cuda")` or `device="cuda:0"`, and every `.cuda()`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            yield ast.unparse(node)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                if argument.value.split(":")[0] in ("cuda", "mps"):
                    yield ast.unparse(node)


def calls(tree, method):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path):
    tree = ast.parse(path.read_text())
    name = module_name(path)
    assert wrong_arrows(name, tree, path.name == "__init__.py") == []
    assert list(literal_devices(tree)) == []
    if name not in OPENS_WEIGHTS:
        assert not calls(tree, "from_pretrained"), (
            "weights are opened in one_step/bases.py, features/loading.py and pretrained.py of networks/ only"
        )


def test_nothing_but_its_command_and_its_tests_needs_pretraining():
    """`tests/test_detachable.py` removes exactly these."""
    own = ("pretraining", "commands.pocket", "tests.pretraining")
    for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]:
        name = module_name(path)
        if not any(within(name, prefix) for prefix in own):
            for module in imported_modules(ast.parse(path.read_text()), name, path.name == "__init__.py"):
                assert not any(within(module, prefix) for prefix in own), f"{name} imports {module}"


def test_no_module_without_a_subject():
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [str(path) for path in SOURCES if vague & {*path.relative_to(ROOT).with_suffix("").parts}] == []


def test_every_library_is_declared():
    """What the code imports stands in setup.cfg; a library that only comes along with another may leave with it."""
    declared = (ROOT / "setup.cfg").read_text().lower()
    distributions = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "yaml": "pyyaml",
        "cleanfid": "clean-fid",
        "sklearn": "scikit-learn",
    }
    for path in SOURCES:
        for module in imported_modules(ast.parse(path.read_text()), module_name(path), path.name == "__init__.py"):
            top = module.split(".")[0]
            if top not in (*PACKAGES, *SHARED) and top not in sys.stdlib_module_names:
                wanted = f"\n    {distributions.get(top, top.replace('_', '-'))}".lower()
                assert wanted in declared, f"{path.relative_to(ROOT)} imports {top}, setup.cfg does not declare it"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("networks.one_step.generator", "import datamodules.batches"),
        ("networks.one_step.generator", "import lightning"),
        ("networks.one_step.generator", "from omegaconf import OmegaConf"),
        ("losses.terms", "from metrics import fid"),
        ("metrics.fid", "def f():\n    from datamodules import batches"),
        ("datamodules.samples", "from networks import bases"),
        ("lightning_modules.base", "from datamodules import base"),
        ("lightning_modules.base", "from metrics import fid"),
        ("lightning_modules.unpaired", "from lightning_modules.callbacks import image_grid"),
        ("lightning_modules.unpaired", "from .callbacks import image_grid"),
        ("commands.translate", "import lightning_modules.callbacks"),
        ("commands.train", "from pretraining import sampling"),
        ("benchmarks.scenes", "import pretraining.sampling"),
        ("inference.folder", "from benchmarks import scenes"),
    ],
)
def test_the_rules_catch_a_wrong_import(name, line):
    assert wrong_arrows(name, ast.parse(line))


@pytest.mark.parametrize("line", ["x.cuda()", "x.to('cuda:0')", "torch.zeros(3, device='cuda')", "torch.device('mps')"])
def test_the_rules_catch_a_literal_device(line):
    assert list(literal_devices(ast.parse(line)))


def test_the_rules_leave_questions_alone():
    assert not list(literal_devices(ast.parse("torch.cuda.is_available() and device.type == 'cuda'")))
