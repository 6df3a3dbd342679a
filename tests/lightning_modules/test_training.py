from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.paired import PairedWeights
from lightning_modules.runtime import NonFiniteLossError
from lightning_modules.unpaired import UnpairedWeights
from networks import VisionAidedDiscriminator
from networks.checkpoints.adapter import trained_state
from networks.features import architectures_only
from networks.one_step import lora
from networks.one_step.lora import lora_layers, trainable_names
from networks.one_step.prompts import CACHE

from .conftest import adamw, fit, paired_batch, unpaired_batch


def snapshot(module):
    return {n: p.detach().clone() for n, p in module.named_parameters()}


def grads(module):
    return {n: p.grad.clone() for n, p in module.generator.named_parameters() if p.grad is not None}


def assert_same_gradient(found, wanted, name):
    # Relative to the tensor: sums in another order differ in the last bits, and the one-step estimate amplifies them.
    assert (found - wanted).norm() <= 1e-4 * wanted.norm(), name


@pytest.fixture
def no_steps(monkeypatch):
    """Let gradients pile up: optimisers neither step nor clear, nothing is clipped."""
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: closure() if closure else None)
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", lambda self, set_to_none=True: None)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: torch.zeros(()))


@pytest.mark.parametrize("model", ["unpaired", "paired", "stochastic"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_every_trainable_tensor_moves_in_two_steps_and_nothing_else(model, precision, unpaired, paired):
    module = unpaired() if model == "unpaired" else paired()
    make = unpaired_batch if model == "unpaired" else paired_batch
    extra = {"strength": 0.5} if model == "stochastic" else {}
    before = snapshot(module)
    fit(module, [make(2, k, **extra) for k in range(2)], precision=precision)
    trainable = set(trainable_names(module))
    for name, p in module.named_parameters():
        assert p.dtype == torch.float32, name
        assert torch.equal(p, before[name]) is (name not in trainable), name


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_everything_also_moves_with_every_memory_saver(precision, unpaired):
    """At the rates of full-size runs: in bfloat16, a step of 1e-6 would round away."""
    saver = {"frozen_dtype": "bfloat16", "checkpointing": True}
    module = unpaired(generator=saver, update="split", optimizer=adamw(lr=1e-6))
    before = snapshot(module)
    fit(module, [unpaired_batch(2, k) for k in range(2)], precision=precision)
    trainable = set(trainable_names(module))
    for name, p in module.named_parameters():
        assert torch.equal(p, before[name]) is (name not in trainable), name


@pytest.mark.parametrize("model", ["unpaired", "paired"])
def test_generator_step_leaves_no_gradient_in_the_discriminators(model, unpaired, paired, monkeypatch):
    module = unpaired() if model == "unpaired" else paired()
    seen = []
    optimise = module.optimise

    def spy(player, terms, names):
        optimise(player, terms, names)
        if player == "generator":
            seen.append([n for n, p in module.discriminators.named_parameters() if p.grad is not None])

    monkeypatch.setattr(module, "optimise", spy)
    fit(module, [(unpaired_batch if model == "unpaired" else paired_batch)(1)])
    assert seen == [[]]
    assert all(p.requires_grad for n, p in module.discriminators.named_parameters())


def test_trained_saved_and_optimised_are_the_same_set(unpaired):
    module = unpaired()
    optimisers = module.configure_optimizers()
    ids = [id(p) for o in optimisers for group in o.param_groups for p in group["params"]]
    named = {n: id(p) for n, p in module.named_parameters() if p.requires_grad}
    assert len(ids) == len(set(ids)) == len(named)
    assert set(ids) == set(named.values())
    buffers = {n for n, _ in module.named_buffers()}
    assert trained_state(module).keys() - buffers == named.keys()


@pytest.mark.parametrize("other", ["sequential", "split"])
def test_fused_gradient_is_the_sum_of_the_others_parts(unpaired, no_steps, other):
    """Sharing first passes and one UNet call changes the cost, not the gradient."""
    found = []
    for update in ("fused", other):
        module = unpaired(update=update)
        fit(module, [unpaired_batch(2)])
        found.append(grads(module))
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        assert_same_gradient(grad, found[1][name], name)


def test_a_fused_step_forms_each_weight_and_describes_each_real_image_once(unpaired, monkeypatch):
    module, formed, described = unpaired(), [], []
    form, features = lora._sum, module.perceptual.features
    monkeypatch.setattr(lora, "_sum", lambda layer, *gates: formed.append(layer) or form(layer, *gates))
    describe = features._features
    monkeypatch.setattr(features, "_features", lambda image: described.append(image) or describe(image))
    fit(module, [unpaired_batch()])
    assert sorted(map(id, formed)) == sorted(map(id, lora_layers(module.generator)))
    assert [image.requires_grad for image in described].count(False) == 2  # of cycle and identity alike


def test_gradient_of_two_images_is_the_mean_of_theirs(unpaired, no_steps):
    both = unpaired()
    fit(both, [unpaired_batch(2)])
    halves = unpaired(accumulate=2)
    whole = unpaired_batch(2)
    singles = []
    for k in range(2):
        part = unpaired_batch(1)
        part.real_a, part.real_b = whole.real_a[k : k + 1], whole.real_b[k : k + 1]
        part.index, part.seed = whole.index[k : k + 1], whole.seed[k : k + 1]
        singles.append(part)
    fit(halves, singles)
    for name, grad in grads(both).items():
        assert_same_gradient(grads(halves)[name], grad, name)


def test_accumulation_steps_every_second_batch(unpaired):
    module = unpaired(accumulate=2)
    before = snapshot(module)
    fit(module, [unpaired_batch(1)])
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    fit(module, [unpaired_batch(1)])
    assert any(not torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_a_validation_keeps_the_gradients_of_half_a_step(unpaired):
    module = unpaired(accumulate=2)
    fit(module, [unpaired_batch(1)])
    held = grads(module)
    module.on_validation_model_zero_grad()  # Lightning's own sets them to None
    assert held and grads(module).keys() == held.keys()


def test_clipping_bounds_the_generators_gradient(unpaired, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(self, closure=None):
        found = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in found])).item())
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(unpaired(clip_norm=1e-3), [unpaired_batch(1)])
    assert norms and max(norms) <= 1.001e-3


@pytest.mark.parametrize(("update", "steps"), [("fused", "gd"), ("split", "gd"), ("sequential", "gggdd")])
def test_optimiser_steps_of_a_batch(unpaired, monkeypatch, update, steps):
    module = unpaired(update=update)
    taken = []
    step = module.step
    monkeypatch.setattr(module, "step", lambda player: [taken.append(player[0]), step(player)])
    fit(module, [unpaired_batch(1)])
    assert "".join(taken) == steps


def test_a_doubled_weight_doubles_its_share(unpaired, no_steps):
    """Against the gradient of the cycle term alone, so a weight that is never applied shows."""
    only = {"gan": 0.0, "cycle_lpips": 0.0, "idt": 0.0, "idt_lpips": 0.0, "disc": 0.0}
    found = []
    for cycle in (1.0, 2.0):
        module = unpaired(UnpairedWeights(cycle=cycle, **only))
        fit(module, [unpaired_batch(1)])
        found.append(grads(module))
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], 2 * grad, msg=name)


def test_a_term_of_weight_zero_is_not_computed(unpaired, paired, monkeypatch):
    logged = []
    module = unpaired(UnpairedWeights(idt=0.0, idt_lpips=0.0))
    monkeypatch.setattr(module, "log_terms", lambda terms: logged.append(set(terms)))
    fit(module, [unpaired_batch(1)])
    families = ("gan", "cycle", "cycle_lpips", "disc")
    assert logged == [{f"{t}_{d}" for t in families for d in ("a2b", "b2a")}]
    other = paired(PairedWeights(lpips=0.0, clip=0.0, gan=0.0, disc=0.0))
    monkeypatch.setattr(other, "log_terms", lambda terms: logged.append(set(terms)))
    fit(other, [paired_batch(1)])
    assert logged[1] == {"l2"}


def test_every_loss_term_of_the_method_is_there(unpaired, paired, monkeypatch):
    logged = []
    for module, batch in ((unpaired(), unpaired_batch(1)), (paired(), paired_batch(1))):
        monkeypatch.setattr(module, "log_terms", lambda terms: logged.append(set(terms)))
        fit(module, [batch])
    families = ("gan", "cycle", "cycle_lpips", "idt", "idt_lpips", "disc")
    assert logged == [{f"{t}_{d}" for t in families for d in ("a2b", "b2a")}, {"l2", "lpips", "gan", "disc"}]


def test_discriminator_and_caption_term_share_one_clip(paired):
    with torch.device("meta"), architectures_only():
        disc = VisionAidedDiscriminator("clip", width=4)
        assert paired(PairedWeights(), disc=disc).clip is disc.features
        assert paired(PairedWeights(), disc=disc, clip_features="another").clip is not disc.features
        assert paired(PairedWeights()).clip is not None


@pytest.mark.parametrize(
    ("weights", "used"),
    [
        ({"clip": 0.0}, ["clip", "random"]),
        ({"clip": 0.0, "gan": 0.0, "disc": 0.0}, ["random"]),
        ({"gan": 0.0, "disc": 0.0}, ["clip", "random"]),  # by the caption term
    ],
)
def test_a_discriminators_network_counts_as_used_where_it_has_a_weight(weights, used, paired):
    with torch.device("meta"), architectures_only():
        module = paired(PairedWeights(**weights), disc=VisionAidedDiscriminator("clip", width=4))
    assert module.training_features == used


def test_strength_weighs_the_reconstruction(paired, monkeypatch):
    logged = []
    for strength in (0.0, 0.5):
        module = paired()
        monkeypatch.setattr(module, "log_terms", lambda terms: logged.append(terms))
        fit(module, [paired_batch(1, strength=strength)])
    assert float(logged[0]["l2"]) == float(logged[0]["lpips"]) == 0
    assert float(logged[1]["l2"]) > 0


@pytest.mark.parametrize("model", ["unpaired", "paired"])
def test_non_finite_loss_stops_with_the_file_names_and_leaves_the_weights(model, unpaired, paired):
    module = unpaired() if model == "unpaired" else paired()
    batch = (unpaired_batch if model == "unpaired" else paired_batch)(1, seed=3)
    batch.real_b[0, 0, 0, 0] = float("nan")
    before = snapshot(module)
    with pytest.raises(NonFiniteLossError, match=r"after 0 images.*30\.png"):
        fit(module, [batch])
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_non_finite_gradient_stops_and_leaves_the_weights(unpaired):
    """Clipping by an infinite norm would make every weight NaN."""
    module = unpaired()
    parameter = next(p for p in module.generator.parameters() if p.requires_grad)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    before = snapshot(module)
    with pytest.raises(NonFiniteLossError, match=r"gradient of the generator .* after 0 images"):
        fit(module, [unpaired_batch()])
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


def test_pairs_refuse_a_direction_that_would_never_train(paired):
    with pytest.raises(ValueError, match="trains a2b alone"):
        paired(generator={"directions": ["a2b", "b2a"]})


def test_progress_and_stopping_count_images(unpaired):
    module = unpaired(max_images=6)
    fit(module, [unpaired_batch(2, k) for k in range(10)], max_epochs=-1)
    assert (module.images_seen, module.batches_seen) == (6, 3)


def test_warm_up_counts_images_and_then_stays(unpaired):
    module = unpaired(optimizer=adamw(lr=1.0), warmup_images=4)
    factors = []
    for seen in (0, 1, 3, 50):
        module.images_seen = seen
        factors.append(module.lr_factor)
    assert factors == [0.25, 0.5, 1.0, 1.0]


def test_the_rate_can_fall_towards_the_end(unpaired):
    module = unpaired(optimizer=adamw(lr=1.0), warmup_images=4, max_images=20, cooldown=0.5)
    factors = []
    for seen in (0, 3, 10, 15, 19, 25):
        module.images_seen = seen
        factors.append(module.lr_factor)
    assert factors == pytest.approx([0.25, 1.0, 1.0, 0.5, 0.1, 0.0])


def test_without_an_end_nothing_cools_down(unpaired):
    module = unpaired(optimizer=adamw(lr=1.0), warmup_images=0, max_images=None, cooldown=0.5)
    module.images_seen = 10**6
    assert module.lr_factor == 1.0
    with pytest.raises(ValueError, match="cooldown must be a number in"):
        unpaired(cooldown=120)


def test_the_rate_is_that_of_the_warm_up_before_the_first_step_too(unpaired):
    module = unpaired(optimizer=adamw(lr=1.0), warmup_images=4, accumulate=2)
    fit(module, [unpaired_batch(1)])
    assert [group["lr"] for optimizer in module.optimizers() for group in optimizer.param_groups] == [0.25] * 3


def test_skips_can_learn_faster_than_the_rest(unpaired):
    module = unpaired(optimizer=adamw(lr=1e-3), warmup_images=4, skip_lr_factor=10.0)
    fit(module, [unpaired_batch(1)])
    rest, skips = module.optimizers()[0].param_groups
    assert (rest["lr"], skips["lr"]) == (pytest.approx(0.25e-3), pytest.approx(2.5e-3))
    wanted = {id(p) for name, p in module.named_parameters() if "skip_convs" in name}
    assert {id(p) for p in skips["params"]} == wanted
    trained = {id(p) for p in module.generator.parameters() if p.requires_grad}
    assert {id(p) for p in rest["params"]} == trained - wanted


@pytest.mark.parametrize(("count", "held"), [(40, False), (CACHE, True)])
def test_the_text_encoder_leaves_where_the_cache_holds_every_caption(paired, monkeypatch, count, held):
    """The prompt of images without a caption is one more."""
    module = paired()
    encoder = module.generator.encode_prompts
    loads = []
    load = encoder._base.load_text
    monkeypatch.setattr(encoder._base, "load_text", lambda: [loads.append(1), load()][1])
    data = SimpleNamespace(captions={"train": [f"street {k}" for k in range(count)], "test": ["street 0"]})
    module._trainer = SimpleNamespace(datamodule=data, precision="32-true")
    module.on_fit_start()
    encoder(["street 0", "street 1"])
    encoder([f"street {count - 1}"])
    assert len(loads) == 1
    assert (encoder._text is not None) is held


def test_codes_of_prompts_are_of_the_different_captions_of_training_and_gates_train(paired):
    module = paired(generator={"prompt_gates": 2}, optimizer=adamw(lr=1e-2))
    captions = ["by day", "at night", "at night"]
    module._trainer = SimpleNamespace(
        datamodule=SimpleNamespace(captions={"train": captions, "test": ["in fog"]}), precision="32-true"
    )
    module.on_fit_start()
    pooled = module.generator.encode_prompts(["by day", "at night"]).mean(dim=1)
    torch.testing.assert_close(module.generator.prompt_code.mean, pooled.mean(dim=0))
    module._trainer = None
    before = snapshot(module)
    batch = replace(paired_batch(2), captions=["by day", "at night"])
    fit(module, [batch, batch])
    torch.testing.assert_close(module.generator.prompt_code.mean, pooled.mean(dim=0))
    trained = {name: p for name, p in module.named_parameters() if ".gate." in name or "prompt_code" in name}
    assert len(trained) > 1
    for name, p in trained.items():
        assert not torch.equal(p, before[name]), name


def test_float16_is_refused(unpaired):
    with pytest.raises(ValueError, match="bf16-mixed or 32-true"):
        fit(unpaired(), [unpaired_batch(1)], precision="bf16-true")


def test_a_generator_without_any_weight_is_refused(unpaired, paired):
    with pytest.raises(ValueError, match="Every weight of the generator's loss is 0"):
        unpaired(UnpairedWeights(gan=0.0, cycle=0.0, cycle_lpips=0.0, idt=0.0, idt_lpips=0.0))
    with pytest.raises(ValueError, match="Every weight of the generator's loss is 0"):
        paired(PairedWeights(l2=0.0, lpips=0.0, clip=0.0, gan=0.0, disc=0.0))


def test_one_direction_and_accumulating_sequence_are_refused(unpaired):
    with pytest.raises(ValueError, match="both directions"):
        unpaired(generator={"directions": ["a2b"]})
    with pytest.raises(ValueError, match="accumulate=1"):
        unpaired(update="sequential", accumulate=2)
