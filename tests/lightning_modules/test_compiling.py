"""Training through compiled blocks.

Most tests trace, differentiate and partition the blocks as for CUDA, but make no machine code, which takes minutes.
They share what is compiled, as the steps of one training do.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_modules import base
from networks.checkpoints.card import AdapterCard
from networks.one_step import compiling
from networks.one_step.lora import current_modulation, modulated
from tests.networks.one_step.test_generator import GATE_PROMPTS, build, embed, open_gates, wake

from .conftest import fit, paired_batch, unpaired_batch

TOLERANCE = 1e-3  # relative to the norm of a gradient: each use forms W + BA anew and sums in another order


class Compiled:
    """What was compiled, and what had to be.

    Attributes:
        count: of compiled variants.
        calls: how often a block was called where no block was compiled.
        kinds: distinct kinds and shapes of these calls.
    """

    def __init__(self) -> None:
        self.counter = CompileCounterWithBackend("aot_eager")
        self.calls = 0
        self.kinds = set()

    @property
    def count(self):
        return self.counter.frame_count

    def watch(self, network):
        for block in network.modules():
            if isinstance(block, compiling.BLOCKS):
                block.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, block, args, kwargs):
        self.calls += 1
        settings = {name: value for name, value in vars(block).items() if isinstance(value, str | int | float)}
        tensors = [
            *block.named_parameters(),
            *enumerate(args),
            *kwargs.items(),
            *current_modulation()._asdict().items(),
        ]
        shapes = [(name, tuple(t.shape), t.stride()) if isinstance(t, Tensor) else (name, t) for name, t in tensors]
        self.kinds.add(repr((type(block), settings, shapes)))


@pytest.fixture(scope="module")
def traced():
    torch.compiler.reset()
    made = Compiled()
    function = compiling._compiled(made.counter)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "_compiled", lambda: function)
        patch.setattr(base, "check_compiler", lambda device: None)
        yield made
    torch.compiler.reset()


class Steps:
    """Loss terms and generator gradients of training on these batches."""

    def __init__(self, module, batches, **arguments):
        self.terms, self.gradients = [], []
        finish, step = module.finish_batch, module.step

        def keep_terms(terms, size):
            self.terms.append({name: term.item() for name, term in terms.items()})
            return finish(terms, size)

        def keep_gradients(player):
            if player == "generator":
                named = module.generator.named_parameters()
                self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
            step(player)

        module.finish_batch, module.step = keep_terms, keep_gradients
        fit(module, batches, **arguments)


def assert_same_steps(found, wanted, tolerance=TOLERANCE):
    assert len(found.gradients) == len(wanted.gradients) > 0
    for terms, expected in zip(found.terms, wanted.terms, strict=True):
        assert terms == pytest.approx(expected, rel=tolerance)
    for gradients, expected in zip(found.gradients, wanted.gradients, strict=True):
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            assert (gradient - expected[name]).norm() <= tolerance * expected[name].norm(), name


# Up to half a minute each: checkpointing with one of the models is enough for every change.
QUICKLY = [("unpaired", False), ("paired", True), ("stochastic", False), ("gated", False)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "checkpointing"),
    [
        *QUICKLY,
        *(pytest.param(model, not checkpointing, marks=pytest.mark.slow) for model, checkpointing in QUICKLY),
    ],
)
def test_steps_are_the_same_and_each_kind_and_shape_is_compiled_once(model, checkpointing, unpaired, paired, traced):
    if model == "unpaired":
        batches = [unpaired_batch(1, k) for k in range(2)]
    else:
        batches = [paired_batch(2, k) for k in range(2)]
    if model == "stochastic":  # every image has a strength of its own, and none is that of the step before
        for k, batch in enumerate(batches):
            batch.strength = torch.tensor([0.3 + 0.2 * k, 0.9])
    settings = {"checkpointing": checkpointing}
    if model == "gated":  # every image has a prompt of its own
        settings["prompt_gates"] = 2
        for batch in batches:
            batch.captions[:] = GATE_PROMPTS[:2]
    steps = []
    for on in (False, True):
        build = unpaired if model == "unpaired" else paired
        module = build(generator={"compile_blocks": on, **settings})
        open_gates(wake(module.generator))
        if on:
            traced.watch(module.generator)
        steps.append(Steps(module, batches))
    assert_same_steps(steps[1], steps[0])
    assert 0 < traced.count == len(traced.kinds) < traced.calls / 4


@pytest.mark.slow
def test_memory_savers_and_bfloat16_too(paired, traced):
    """Autocast, and weights that are cast at each use, lie within the compiled blocks."""
    saver = {"frozen_dtype": "bfloat16", "checkpointing": True}
    steps, before = [], traced.count
    for on in (False, True):
        module = paired(generator={"compile_blocks": on, **saver})
        wake(module.generator)
        steps.append(Steps(module, [paired_batch(2, strength=0.5)], precision="bf16-mixed"))
    assert traced.count > before
    assert_same_steps(steps[1], steps[0], tolerance=0.05)  # bfloat16 keeps three digits


def test_validation_compiles_nothing_and_names_and_settings_stay(unpaired, traced):
    plain, compiled = (unpaired(generator={"compile_blocks": on}) for on in (False, True))
    assert compiled.generator.compiled_blocks == 32 and plain.generator.compiled_blocks == 0
    before = traced.count
    with torch.no_grad():
        for size in (16, 24, 40):
            image = torch.rand(1, 3, size, size) * 2 - 1
            outputs = [module.generator(image, embed(module.generator)) for module in (plain, compiled)]
            torch.testing.assert_close(*outputs, atol=0, rtol=0)
    assert traced.count == before
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    assert plain.generator.trained_names == compiled.generator.trained_names
    cards = [AdapterCard.of(module.generator, module.run_facts).to_json() for module in (plain, compiled)]
    assert cards[0] == cards[1]


@pytest.mark.long
def test_training_without_a_compiler_ends_before_its_first_batch(unpaired, monkeypatch, tmp_path):
    code = "import torch; from networks.one_step.compiling import check_compiler; check_compiler(torch.device('cpu'))"
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | cache | {"CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    said = ended.stderr.strip().splitlines()[-1]
    assert said.startswith("ValueError: compile_blocks=true: torch.compile does not work here for cpu (")
    assert "no-such-compiler" in said and "a C++ compiler (g++)" in said

    def missing(device):
        raise ValueError(f"no compiler for {device}")

    monkeypatch.setattr(base, "check_compiler", missing)
    with pytest.raises(ValueError, match="no compiler for cpu"):
        fit(unpaired(generator={"compile_blocks": True}), [unpaired_batch()])


@pytest.mark.slow
def test_machine_code_of_a_block_computes_the_same_under_each_strength(two_level_base):
    """Of one block and a CPU, which takes a minute; the tests above need no compiler."""
    torch.compiler.reset()
    compiling.check_compiler(torch.device("cpu"))
    results = []
    for on in (False, True):
        generator = wake(build(two_level_base, compile_blocks=on))
        block = generator.autoencoder("a2b").vae.get_submodule("encoder.down_blocks.1.resnets.0")
        x = paired_batch(2).real_a.mean(1, keepdim=True).expand(-1, 8, -1, -1)
        found = []
        for strength in (None, torch.tensor([0.2, 0.7]), torch.tensor([0.9, 0.4])):
            with modulated(strength):
                output = block(x, None)
            trained = [p for p in block.parameters() if p.requires_grad]
            found += [output, *torch.autograd.grad(output.square().mean(), trained)]
        results.append(found)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
    for found, expected in zip(results[1], results[0], strict=True):
        assert (found - expected).norm() <= TOLERANCE * expected.norm()
