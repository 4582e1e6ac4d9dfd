"""The moving average of the weights: its value, and where it is used."""

import pytest
import torch
from torch import nn

from recbole_lite import create_dataset, data_preparation, get_trainer, load_data_and_model
from recbole_lite.trainer.weight_averaging import WeightAverage
from recbole_lite.utils.errors import ConfigError


def test_values_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    average = WeightAverage(model, optimizer, 0.2)
    for gradient in (-1.0, -2.0, -4.0):  # weights 1, 3, 7
        model.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    # Decays: 2/11 and 0.2, as 3/12 and 4/13 are more.
    expected = 9 / 11
    expected = 0.2 * expected + 0.8 * 3
    expected = 0.2 * expected + 0.8 * 7
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 7
    again = WeightAverage(model, optimizer, 0.2)
    again.restore(average.state())
    model.weight.grad = torch.tensor([[-1.0]])
    optimizer.step()
    again.finish()
    assert model.weight.item() == pytest.approx(0.2 * expected + 0.8 * 8)


def trained(config, saved):
    """Trainer after fit, the average of its weights by a few lines, and its weights then."""
    loaders = data_preparation(config, create_dataset(config))
    torch.manual_seed(0)
    model = config.model_class(config, loaders[0]._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    averages = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps = []

    def follow(*_):
        steps.append(1)
        decay = min(0.6, (1 + len(steps)) / (10 + len(steps)))
        for name, p in model.named_parameters():
            averages[name] = decay * averages[name] + (1 - decay) * p.detach()

    trainer.optimizer.register_step_post_hook(follow)
    trainer.fit(loaders[0], loaders[1], saved=saved)
    return trainer, loaders, averages


@pytest.mark.parametrize("saved", [True, False])
def test_the_average_is_validated_saved_and_tested(saved, config_for):
    config = config_for("SASRec", ema_decay=0.6, epochs=1)
    trainer, (_, valid, test), averages = trained(config, saved)
    tested = trainer.evaluate(test, load_best_model=saved)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.detach(), averages[name])
    assert trainer.evaluate(valid, load_best_model=False) == trainer.history[-1]["valid_result"]
    if saved:
        model = load_data_and_model(trainer.run_dir)[1]
        for name, weight in model.named_parameters():
            torch.testing.assert_close(weight.detach(), averages[name])
        assert trainer.evaluate(test) == tested


def test_models_with_batch_norms_are_refused():
    with pytest.raises(ConfigError, match="ema_decay: BatchNorm1d has batch norms"):
        WeightAverage(nn.BatchNorm1d(2), torch.optim.SGD([nn.Parameter(torch.ones(1))]), 0.9)
