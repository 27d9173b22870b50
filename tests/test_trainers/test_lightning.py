"""Lightning: the bare conversion and the callback, in its real Trainer."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref
from csv import DictReader
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import Conv3dNet
from torch import Tensor, nn

pytest.importorskip('lightning', reason='needs adv_plugins[trainers]')

import lightning.pytorch as pl  # noqa: E402
from lightning.pytorch.loggers import CSVLogger  # noqa: E402

from adv_plugins import AdvProp, CEAugmentation, adversarial_state_dict, make_adversarial  # noqa: E402
from adv_plugins.core.conversion import get_adversary, is_adversarial  # noqa: E402
from adv_plugins.integrations.lightning import AdversarialCallback  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'examples/trainers'))

import lightning_callback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings('ignore:.*num_workers'),
    pytest.mark.filterwarnings('ignore:.*no batch normalisation'),
]

SHAPE = (3, 4, 6, 6)
RANDOM = AdvProp(steps=1, random_start=True)


class Plain(pl.LightningModule):
    """A user's module; what it trains with is in one line of training_step."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.net = Conv3dNet() if net is None else net
        self.lr = lr
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log('val_loss', F.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs['loss']))


class Module(Plain):
    """The same, adversarial."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net.adversarial_loss(*batch)


class Bare(Plain):
    """Made adversarial by itself, without a callback."""

    def __init__(self, recipe: Any = 'advprop') -> None:
        super().__init__()
        make_adversarial(self.net, recipe)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net.adversarial_loss(*batch)['loss']


def loader(batch_size: int = 2, size: int = 8, dtype: Any = None) -> Any:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(size, *SHAPE, generator=generator, dtype=dtype)
    data = torch.utils.data.TensorDataset(clips, torch.arange(size) % 6)
    return torch.utils.data.DataLoader(data, batch_size)


def fit(module: Any, folder: Any, *callbacks: Any, ckpt_path: Any = None, **changes: Any) -> Any:
    data = changes.pop('data', None)
    settings = dict(
        accelerator='cpu', max_epochs=2, default_root_dir=folder, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer = pl.Trainer(**(settings | changes), callbacks=list(callbacks))
    trainer.fit(module, loader() if data is None else data, ckpt_path=ckpt_path)
    return trainer


def assert_same(first: nn.Module, second: nn.Module) -> None:
    for (name, value), other in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        assert torch.equal(value, other[1]), name
    for (name, value), other in zip(first.named_buffers(), second.named_buffers(), strict=True):
        assert torch.equal(value, other[1]), name


def test_bare_conversion_trains_as_a_loop_by_hand(tmp_path):
    module = Bare(CEAugmentation())
    net = copy.deepcopy(module.net).train()
    fit(module, tmp_path)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(2):
        for batch in loader():
            optimizer.zero_grad()
            net.adversarial_loss(*batch)['loss'].backward()
            optimizer.step()
    assert_same(net, module.net)
    assert not torch.equal(net.bn1.adv_weight, net.bn1.weight)


def test_callback_is_the_bare_conversion(tmp_path):
    torch.manual_seed(3)
    bare = Bare(CEAugmentation())
    torch.manual_seed(3)
    module = Module()
    fit(bare, tmp_path)
    callback = AdversarialCallback('ceaugmentation')
    fit(module, tmp_path, callback)
    assert_same(bare, module)
    # The callback and its module go on together.
    fit(module, tmp_path, callback, max_epochs=1)
    assert get_adversary(module.net).schedule.iteration == 12


def test_clean_path_is_the_plain_run_when_the_adversarial_weight_is_zero(tmp_path):
    plain = Plain()
    module = Module(copy.deepcopy(plain.net))
    fit(plain, tmp_path)
    fit(module, tmp_path, AdversarialCallback(AdvProp(adv_weight=0.0, steps=1)))
    for (name, value), other in zip(
        plain.state_dict().items(), module.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


def test_checkpoint_is_a_plain_one(tmp_path):
    module = Module()
    trainer = fit(module, tmp_path, AdversarialCallback('advprop', steps=1, mean=0.5, std=0.5))
    trainer.save_checkpoint(tmp_path / 'last.ckpt')
    plain = Plain.load_from_checkpoint(tmp_path / 'last.ckpt', strict=True)
    assert not is_adversarial(plain.net)
    clips = next(iter(loader()))[0]
    assert torch.equal(plain.eval().net(clips), module.eval().net(clips))
    found = [
        pl.Trainer(logger=False, enable_progress_bar=False, accelerator='cpu').validate(
            net, loader(), ckpt_path=path, verbose=False
        )
        for net, path in ((module, None), (Module(), tmp_path / 'last.ckpt'))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize('bare', [False, True])
def test_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path, bare):
    """Schedule, private random stream, adversarial norms; another seed must not matter."""

    def run(epochs: int, **options: Any) -> Any:
        module = Bare(RANDOM) if bare else Module()
        callback = AdversarialCallback() if bare else AdversarialCallback(RANDOM)
        return fit(module, tmp_path, callback, max_epochs=epochs, **options), module

    torch.manual_seed(1)
    whole = run(4)[1]
    torch.manual_seed(1)
    run(2)[0].save_checkpoint(tmp_path / 'half.ckpt')
    torch.manual_seed(7)
    resumed = run(4, ckpt_path=tmp_path / 'half.ckpt')[1]
    assert_same(whole, resumed)
    first, second = (adversarial_state_dict(module.net) for module in (whole, resumed))
    assert first['adversary.iteration'] == 16
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_resume_of_a_run_without_the_callback_is_told(tmp_path):
    module = Bare(RANDOM)
    fit(module, tmp_path, max_epochs=1).save_checkpoint(tmp_path / 'bare.ckpt')
    with pytest.warns(UserWarning, match='without AdversarialCallback'):
        fit(Bare(RANDOM), tmp_path, AdversarialCallback(), ckpt_path=tmp_path / 'bare.ckpt')


@pytest.mark.parametrize(('by_epoch', 'walks'), [(True, 4), (False, 7)])
def test_begin_counts_epochs_or_batches(tmp_path, by_epoch, walks):
    module = Module()
    fit(module, tmp_path, AdversarialCallback(RANDOM_LATER, by_epoch=by_epoch))
    assert get_adversary(module.net).schedule.adversarial_steps == walks


@pytest.mark.parametrize(
    ('options', 'limits'),
    [
        (dict(begin=1), dict(max_steps=2, max_epochs=-1)),
        (dict(begin=1, interval=50), dict(max_epochs=2)),
    ],
)
def test_a_run_that_stops_before_the_first_attack_is_told(options, limits):
    callback = AdversarialCallback(AdvProp(steps=1, **options), mean=0.5, std=0.5)
    trainer = pl.Trainer(
        accelerator='cpu',
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[callback],
        **limits,
    )
    with pytest.warns(UserWarning, match='no iteration is adversarial'):
        trainer.fit(Module(), loader())


RANDOM_LATER = AdvProp(steps=1, begin=1)


@pytest.mark.parametrize(('by_epoch', 'begin'), [(True, 2), (True, 7), (False, 8)])
def test_schedule_that_begins_after_the_run_is_told(tmp_path, by_epoch, begin):
    callback = AdversarialCallback(AdvProp(steps=1, begin=begin), by_epoch=by_epoch)
    with pytest.warns(UserWarning, match=f'begin={begin}.*no iteration is adversarial'):
        fit(Module(), tmp_path, callback)


def test_training_step_past_the_step_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r'none of them adversarial.*adversarial_loss'):
        fit(Plain(), tmp_path, AdversarialCallback('advprop'))


def test_validation_in_inference_mode_may_attack(tmp_path):
    class Attacked(Module):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert torch.is_inference_mode_enabled()
            moved = self.net.perturb(*batch)
            assert (moved != batch[0]).any() and self.net.adversarial_loss(*batch)['loss'] > 0

    trainer = pl.Trainer(accelerator='cpu', logger=False, default_root_dir=tmp_path)
    module = Attacked()
    make_adversarial(module.net)
    trainer.validate(module, loader(), verbose=False)


def test_parts_of_the_loss_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    module = Module()
    fit(
        module, tmp_path, AdversarialCallback('advprop', steps=1), logger=logger,
        log_every_n_steps=1, max_epochs=1,
    )  # fmt: skip
    with open(f'{logger.log_dir}/metrics.csv') as file:
        logged = [{name: float(value) for name, value in row.items()} for row in DictReader(file)]
    assert len(logged) == 4
    for entry, loss in zip(logged, module.losses, strict=True):
        assert entry['clean_loss'] + entry['adv_loss'] == pytest.approx(loss, rel=1e-5)
        assert entry['adv_eps'] == pytest.approx(4 / 255)


def test_bf16(tmp_path):
    module, seen = Module(lr=0.2), set()
    module.net.stem.register_forward_hook(lambda _m, _a, output: seen.add(output.dtype))
    fit(module, tmp_path, AdversarialCallback('advprop', steps=1), precision='bf16-mixed',
        max_epochs=10)  # fmt: skip
    assert seen == {torch.bfloat16}
    assert sum(module.losses[-4:]) < 0.8 * sum(module.losses[:4])
    assert module.net.bn1.adv_weight.dtype == torch.float32


class NormFree(nn.Module):
    """Micro-batches of a batch norm are no larger batch, whoever trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.gelu(self.conv(x)).mean(dim=(2, 3, 4)))


def test_accumulated_micro_batches_are_the_larger_batch(tmp_path):
    start = NormFree().double()
    ends = []
    for size, steps in ((4, 1), (2, 2), (1, 4)):
        module = Module(copy.deepcopy(start), lr=0.5)
        fit(
            module, tmp_path, AdversarialCallback('advprop', steps=2), precision='64-true',
            accumulate_grad_batches=steps, data=loader(size, dtype=torch.float64),
            gradient_clip_val=0.5,
        )  # fmt: skip
        ends.append(module.net)
    assert (start.fc.weight - ends[0].fc.weight).abs().max() > 1e-2
    for other in ends[1:]:
        for value, expected in zip(ends[0].parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


class TwoParts(Module):
    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Linear(2, 2)
        self.loss = nn.CrossEntropyLoss()


def test_the_network_is_named_or_the_only_one(tmp_path):
    with pytest.raises(ValueError, match=r"write attribute='net' or attribute='teacher'"):
        fit(TwoParts(), tmp_path, AdversarialCallback('advprop'))
    with pytest.raises(ValueError, match=r"attribute='model' does not name.*attribute='net'"):
        fit(Module(), tmp_path, AdversarialCallback('advprop', attribute='model'))
    module = TwoParts()
    fit(module, tmp_path, AdversarialCallback('advprop', 'net', steps=1), max_epochs=1)
    assert is_adversarial(module.net)
    assert not is_adversarial(module.teacher)


def test_a_network_of_configure_model_is_converted_there(tmp_path):
    class Late(Module):
        def __init__(self) -> None:
            super().__init__(nn.Identity())

        def configure_model(self) -> None:
            self.net = make_adversarial(Conv3dNet(), 'advprop', steps=1)

    with pytest.raises(
        ValueError, match=r'if configure_model makes the .* there self\.net = make_'
    ):
        fit(Late(), tmp_path, AdversarialCallback('advprop'))
    fit(module := Late(), tmp_path, AdversarialCallback(), max_epochs=1)
    assert get_adversary(module.net).schedule.adversarial_steps == 4


def test_one_recipe(tmp_path):
    with pytest.raises(ValueError, match='has no recipe'):
        fit(Module(), tmp_path, AdversarialCallback())
    for callback in (AdversarialCallback('taf'), AdversarialCallback(eps=0.1)):
        with pytest.raises(ValueError, match='leave one out'):
            fit(Bare(), tmp_path, callback)


def test_a_budget_outlives_a_second_fit(tmp_path):
    """The first batch has chosen what the budget pays for: it is the callback's recipe still."""
    module, callback = Module(), AdversarialCallback(CEAugmentation(budget=1.5))
    for _ in range(2):
        fit(module, tmp_path, callback, max_epochs=1)
    assert get_adversary(module.net).schedule.adversarial_steps


def test_averaging_before_the_conversion_is_refused(tmp_path):
    averaging = [lambda: pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01)]
    if hasattr(pl.callbacks, 'EMAWeightAveraging'):
        averaging.append(pl.callbacks.EMAWeightAveraging)
    for build in averaging:
        name = type(build()).__name__
        with pytest.raises(ValueError, match=f'put AdversarialCallback before {name}'):
            fit(Module(), tmp_path, build(), AdversarialCallback(AdvProp(steps=1)))
        fit(Module(), tmp_path, AdversarialCallback(AdvProp(steps=1)), build())


def test_callback_can_be_sent_to_another_process():
    callback = pickle.loads(pickle.dumps(AdversarialCallback('taf', eps=0.1)))
    assert (callback.recipe, callback.options) == ('taf', {'eps': 0.1})


def test_nothing_outlives_the_run(tmp_path):
    """A callback that is kept holds neither the network nor its optimizer."""
    callback, module = AdversarialCallback(AdvProp(steps=1)), Module()
    trainer = fit(module, tmp_path, callback, max_epochs=1)
    kept = weakref.ref(module.net), weakref.ref(trainer.optimizers[0])
    # Lightning's own, for the time of a run and after.
    callback.__dict__.pop('log', None), callback.__dict__.pop('log_dict', None)
    del module, trainer
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def test_ddp_moves_nothing_that_a_clean_iteration_did_not_reach(tmp_path):
    """DDP makes zeros of the gradients that a clean iteration has not, and momentum moves them."""
    runs = []
    for strategy in ('auto', 'ddp_fork'):
        torch.manual_seed(5)
        module = Module()
        file = tmp_path / f'{strategy}.pt'

        def keep(*_: Any, module: Any = module, file: Path = file) -> None:
            torch.save([value.detach() for value in module.parameters()], file)

        module.on_fit_end = keep
        callback = AdversarialCallback(AdvProp(steps=1, interval=2))
        fit(module, tmp_path, callback, devices=1, strategy=strategy, use_distributed_sampler=False)
        runs.append(torch.load(file))
    for value, other in zip(*runs, strict=True):
        assert torch.equal(value, other)


@pytest.mark.filterwarnings('error:adversarial_loss was not called by the forward')
def test_two_processes_stay_bit_equal(tmp_path):
    class Rank(Module):
        def on_fit_end(self) -> None:
            state = [*self.named_parameters()], adversarial_state_dict(self.net)
            torch.save(state, tmp_path / f'{self.global_rank}.pt')

        def prepare_data(self) -> None:
            """On rank 0 alone: the ranks have different seeds before the conversion."""
            torch.manual_seed(99)

    fit(
        Rank(), tmp_path, AdversarialCallback(AdvProp(steps=1, interval=2)), devices=2,
        strategy='ddp_fork',
    )  # fmt: skip
    first, second = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
    for (name, value), other in zip(first[0], second[0], strict=True):
        assert torch.equal(value, other[1]), name
    assert first[1]['adversary.seed'] == second[1]['adversary.seed']


def test_example(tmp_path):
    assert lightning_callback.main(['--out', str(tmp_path)]) > 0.5


def test_validation_alone_converts_nothing():
    module = Plain()
    callback = AdversarialCallback('advprop')
    trainer = pl.Trainer(
        accelerator='cpu', logger=False, enable_progress_bar=False, callbacks=[callback]
    )
    trainer.validate(module, loader(), verbose=False)
    assert not is_adversarial(module.net)
