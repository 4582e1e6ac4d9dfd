import pytest
import torch

from recbole_lite.utils.best_scores import maxima, top_k


@pytest.mark.parametrize("n", [5, 32, 33, 96, 100, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_best_are_those_of_topk(n, k):
    scores = torch.stack([torch.randperm(n, generator=torch.manual_seed(i)) for i in range(4)])
    values, places = top_k(scores.float(), k)
    expected = scores.float().topk(k)
    assert torch.equal(values, expected.values)
    assert torch.equal(places, expected.indices)


def test_scores_that_are_left_out_are_given_only_where_too_few_remain():
    scores = torch.full((1, 96), -torch.inf)
    scores[0, 70] = 1.0
    values, places = top_k(scores, 2)
    assert values.tolist() == [[1.0, -torch.inf]]
    assert places[0, 0] == 70 != places[0, 1]


def test_the_largest_of_each_group():
    scores = torch.arange(66.0)[None]
    assert maxima(scores).tolist() == [[62.0, 63.0, 64.0, 65.0]]
