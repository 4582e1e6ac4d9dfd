"""Semantic ids: the quantisation against NumPy, collisions, cache, bad input."""

import logging

import numpy as np
import pytest
import torch

from recbole_lite import create_dataset
from recbole_lite.model.generative import semantic_ids
from recbole_lite.model.generative.rqvae import RQVAE, quantize, residual_kmeans, train_rqvae
from recbole_lite.model.generative.semantic_ids import add_digit, describe, load_semantic_ids
from recbole_lite.utils.errors import ConfigError, DataError

SMALL = {"codebook_size": 4, "rqvae_layers": [8, 4], "rqvae_epochs": 3, "rqvae_batch_size": 10}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def numpy_codes(vectors, codebooks):
    """Codes ``[n, l]`` and residuals ``[l, n, d]``, by all distances."""
    codes, residuals, left = [], [], vectors.copy()
    for book in codebooks:
        distances = ((left[:, None] - book[None]) ** 2).sum(2)
        codes.append(distances.argmin(1))
        residuals.append(left)
        left = left - book[codes[-1]]
    return np.stack(codes, 1), np.stack(residuals)


# -- quantisation and loss ----------------------------------------------------------------------


def test_codes_are_the_nearest_of_what_is_left():
    vectors, codebooks = random(50, 3), random(2, 7, 3, seed=1)
    expected, residuals = numpy_codes(vectors.double().numpy(), codebooks.double().numpy())
    codes, left = quantize(vectors, codebooks)
    assert codes.tolist() == expected.tolist()
    np.testing.assert_allclose(left, residuals, atol=1e-5)


def test_codes_by_hand():
    codebooks = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    codes, left = quantize(torch.tensor([[11.0, 0.0], [0.5, 2.0]]), codebooks)
    assert codes.tolist() == [[1, 0], [0, 1]]
    assert left[1].tolist() == [[1.0, 0.0], [0.5, 2.0]]


def linear_rqvae(codebooks, beta):
    """RQ-VAE whose encoder and decoder are one layer, so that NumPy can differentiate it."""
    model = RQVAE(5, [3], *codebooks.shape[:2], beta)
    with torch.no_grad():
        model.codebooks.copy_(codebooks)
    return model


def test_loss_and_gradients_are_those_of_the_formula():
    x, codebooks, beta = random(20, 5), random(3, 6, 3, seed=1), 0.25
    model = linear_rqvae(codebooks, beta).double()
    loss, codes, _ = model(x.double())
    loss.backward()

    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    x, books = x.double().numpy(), codebooks.double().numpy()
    z = x @ weights["encoder.0.weight"].T + weights["encoder.0.bias"]
    expected, residuals = numpy_codes(z, books)
    assert codes.tolist() == expected.tolist()
    chosen = np.stack([book[c] for book, c in zip(books, expected.T, strict=True)])
    error = chosen.sum(0) @ weights["decoder.0.weight"].T + weights["decoder.0.bias"] - x
    distance = residuals - chosen  # [l, B, d]
    value = (error**2).sum() + (1 + beta) * (distance**2).sum()
    assert float(loss.detach()) == pytest.approx(value / len(x))

    # The decoder's gradient reaches z as if z itself had been decoded.
    to_z = 2 * error @ weights["decoder.0.weight"] + 2 * beta * distance.sum(0)
    np.testing.assert_allclose(model.encoder[0].weight.grad, to_z.T @ x / len(x), atol=1e-9)
    of_codes = np.zeros_like(books)
    for level, taken in enumerate(expected.T):
        np.add.at(of_codes[level], taken, -2 * distance[level] / len(x))
    np.testing.assert_allclose(model.codebooks.grad, of_codes, atol=1e-9)


def test_unused_codes_move_to_residuals():
    model = linear_rqvae(random(2, 4, 3), 0.25)
    before, residuals = model.codebooks.detach().clone(), random(2, 5, 3, seed=3)
    codes = torch.tensor([[0, 1], [2, 1], [0, 3]])
    model.revive(codes, residuals, torch.Generator().manual_seed(0))
    for level, dead in enumerate(([1, 3], [0, 2])):
        rows = residuals[level].tolist()
        for code in range(4):
            assert (model.codebooks[level, code].tolist() in rows) is (code in dead)
            unchanged = torch.equal(model.codebooks[level, code], before[level, code])
            assert unchanged is (code not in dead)


def test_kmeans_finds_clusters_and_what_is_in_them():
    """4 clusters of 3 places each: the first level finds the clusters, the second the places."""
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    places = torch.tensor([[0.0, 3.0], [-3.0, -1.5], [3.0, -1.5]])  # their mean is 0
    vectors = (centres[:, None] + places).flatten(0, 1)
    books = residual_kmeans(vectors, 2, 4, seed=0)
    assert sorted(books[0].round().tolist()) == sorted(centres.tolist())
    codes, _ = quantize(vectors, books)
    assert len(codes.unique(dim=0)) == 12
    clusters = codes[:, 0].view(4, 3)
    assert (clusters == clusters[:, :1]).all()


def test_training_tells_clusters_apart_and_follows_the_seed():
    """16 places, 5 items at each: items of a place get the codes that no other place has."""
    places = 3 * random(16, 6)
    vectors = (places[:, None] + 0.01 * random(16, 5, 6, seed=1)).flatten(0, 1)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        model = RQVAE(6, [16, 8], 2, 8, 0.25)
        found.append(train_rqvae(model, vectors, 200, 40, 0.01, seed=1))
    assert torch.equal(*found)
    assert len(found[0].unique(dim=0)) == 16
    of_places = found[0].view(16, 5, 2)
    assert (of_places == of_places[:, :1]).all()
    with torch.no_grad():
        chosen = torch.stack([model.codebooks[level][c] for level, c in enumerate(found[0].T)])
        left = (vectors - model.decoder(chosen.sum(0))).square().sum()
    assert float(left) < 0.1 * float((vectors - vectors.mean(0)).square().sum())


# -- tuples of items ----------------------------------------------------------------------------


def test_the_last_digit_numbers_items_of_equal_codes():
    codes = torch.tensor([[0, 0], [1, 2], [0, 0], [1, 2], [3, 0], [1, 2]])
    assert add_digit(codes)[1:].tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [3, 0, 0], [1, 2, 2]]


def test_description_by_hand():
    codes = torch.tensor([[1, 2], [0, 0], [1, 2], [3, 0], [1, 2], [4, 4]])
    assert describe(codes, {"codebook_size": 4}) == (
        "6 items have 4 different tuples; 3 items (50.0%) share theirs, at most 3 of one; "
        "codes used: 3, 2 of 4; 1 items without a vector have codes of their own"
    )


@pytest.mark.parametrize("how", ["rqvae", "rkmeans"])
def test_all_items_have_different_tuples(how, config_for, caplog):
    caplog.set_level(logging.INFO)
    config = config_for("TIGER", semantic_ids=how, **SMALL)
    ids = load_semantic_ids(config, create_dataset(config))
    assert ids.shape == (25, 4)
    assert len(ids[1:].unique(dim=0)) == 24
    assert int(ids[1:, :3].max()) < 4
    assert f"Semantic ids ({how}): 24 items have" in caplog.text


def test_items_without_text_have_codes_of_their_own(config_for, data_path):
    path = data_path / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    lines[2:4] = [f"{line.split()[0]}\t\t\t" for line in lines[2:4]]
    path.write_text("\n".join(lines) + "\n")
    config = config_for("TIGER", semantic_ids="rkmeans", item_text_fields=["title"], **SMALL)
    dataset = create_dataset(config)
    ids = load_semantic_ids(config, dataset)
    missing = [dataset.token2id("item_id", name) for name in ("i1", "i2")]
    assert sorted(ids[missing].tolist()) == [[4, 4, 4, 0], [4, 4, 4, 1]]
    assert sum(row[:3] == [4, 4, 4] for row in ids.tolist()) == 2


def test_the_cache_knows_settings_and_vectors(config_for, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    made = []
    make = semantic_ids.make_codes
    monkeypatch.setattr(
        semantic_ids, "make_codes", lambda *given: made.append(given) or make(*given)
    )
    random_before = torch.get_rng_state()
    found = []
    for changes in ({}, {}, {"rqvae_epochs": 2}, {"item_vector_norm": "unit"}, {"seed": 1}):
        config = config_for("TIGER", **{**SMALL, "item_embedding_cache_dir": "cache", **changes})
        found.append(load_semantic_ids(config, create_dataset(config)))
    assert len(made) == 4
    assert torch.equal(found[0], found[1])
    assert caplog.text.count("Semantic ids read from cache") == 1
    assert torch.equal(random_before, torch.get_rng_state())


# -- bad input ----------------------------------------------------------------------------------


def problem(config_for, **changes):
    config = config_for("TIGER", **{**SMALL, **changes})
    with pytest.raises((ConfigError, DataError)) as error:
        load_semantic_ids(config, create_dataset(config))
    return str(error.value)


def test_codebooks_larger_than_the_catalogue(config_for):
    assert problem(config_for, codebook_size=256) == (
        "codebook_size: 256 codes in a codebook, but the items have only 24 different vectors; "
        "set at most 24"
    )


def test_equal_vectors(config_for, workdir):
    rows = [f"i{item},0.5,0.5" for item in range(24)]
    (workdir / "vectors.csv").write_text("\n".join(["item_id,a,b", *rows]) + "\n")
    assert problem(config_for, item_vectors="vectors.csv").startswith(
        "item vectors: those of all 24 items are equal, which leaves no codes to tell them apart"
    )


def test_no_text(config_for, data_path):
    path = data_path / "tiny" / "tiny.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(f"{line.split()[0]}\t\t\t" for line in lines[1:])]))
    assert problem(config_for).startswith("item_text_fields: no item of tiny has text in")


def test_a_training_that_diverges(config_for):
    expected = "rqvae_learning_rate: the RQ-VAE diverged at 1e+30; set a lower one"
    assert problem(config_for, rqvae_learning_rate=1e30) == expected


@pytest.mark.parametrize("layers", [[], [8, 0], 64, ["8"], [8.5]])
def test_bad_layers(layers, config_for):
    expected = f"rqvae_layers must be a list of sizes of layers, found {layers!r}"
    assert problem(config_for, rqvae_layers=layers) == expected
