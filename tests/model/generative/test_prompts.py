"""Prompts from token tables, against the tokenizer on the whole text."""

import pytest
import torch
from transformers import AutoTokenizer

from recbole_lite.model.generative.prompts import Prompts, TokenTable, split_template
from recbole_lite.utils.errors import ConfigError

TEMPLATES = ["{user} {items}", "after {user} what {items} next"]


@pytest.fixture
def tokenizer(llm_folders):
    return AutoTokenizer.from_pretrained(llm_folders["writer"])


@pytest.fixture
def prompts(tokenizer):
    def spell(texts):
        return tokenizer(texts, add_special_tokens=False).input_ids

    users = TokenTable([[], *spell([f"user_{n}" for n in range(1, 200)])])
    items = TokenTable([[], *spell([f"item_{n}" for n in range(1, 200)])])
    templates = []
    for template in TEMPLATES:
        before, between, behind = spell(list(split_template(template, "key")))
        templates.append((before, between, [*behind, tokenizer.eos_token_id]))
    return Prompts(templates, users, items)


USERS = torch.tensor([3, 123, 45, 7])
ITEMS = torch.tensor([[5, 123, 17, 0], [9, 0, 0, 0], [0, 0, 0, 0], [101, 102, 103, 104]])
TEMPLATE = torch.tensor([0, 1, 1, 0])


def test_tokens_are_those_of_the_whole_text(prompts, tokenizer):
    tokens, _, mask = prompts(USERS, ITEMS, TEMPLATE)
    texts = []
    for user, items, template in zip(
        USERS.tolist(), ITEMS.tolist(), TEMPLATE.tolist(), strict=True
    ):
        listed = " ".join(f"item_{item}" for item in items if item)
        texts.append(TEMPLATES[template].format(user=f"user_{user}", items=listed))
    expected = tokenizer([" ".join(text.split()) for text in texts], padding=True)
    assert tokens.tolist() == expected.input_ids
    assert mask.long().tolist() == expected.attention_mask


def test_whole_words_by_hand(prompts):
    _, words, _ = prompts(USERS[:2], ITEMS[:2], TEMPLATE[:2])
    # user _ 3 | item _ 5 | item _ 12 3 | item _ 17 | </s>
    assert words[0].tolist() == [1] * 3 + [2] * 3 + [3] * 4 + [4] * 3 + [0]
    # after | user _ 12 3 | what | item _ 9 | next | </s>
    assert words[1].tolist() == [0] + [1] * 4 + [0] + [2] * 3 + [0, 0] + [0] * 3


@pytest.mark.parametrize(
    "template, message",
    [
        ("{items}", "must hold {user} and {items} once each"),
        ("{user} {user} {items}", "once each"),
        ("user_{user} {items}", "between spaces"),
        ("{user} {items}.", "between spaces"),
        ("{items} {user}", "must name {user} before {items}"),
    ],
)
def test_templates_that_cannot_be_split(template, message):
    with pytest.raises(ConfigError, match=message):
        split_template(template, "prompt_templates")


def test_parts_of_a_template():
    assert split_template("of {user} :  {items} so ?", "key") == ("of", ":", "so ?")
