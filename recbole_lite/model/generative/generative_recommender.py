"""A recommender that generates the next item's tokens, or scores items without a decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from recbole_lite.data.device_transfer import tensor_to_device, to_host
from recbole_lite.data.windows import CANDIDATES, SEEN
from recbole_lite.model.generative.beam_search import BeamCounts, beam_search, unknown_items
from recbole_lite.model.generative.item_indexing import ItemVocabulary
from recbole_lite.model.generative.shared_cross_attention import share_cross_attention
from recbole_lite.model.layers.candidate_scores import (
    candidate_loss,
    scatter_to_catalogue,
    score_candidates,
)
from recbole_lite.model.layers.deduplicate import distinct_rows
from recbole_lite.model.layers.llm_architecture import read_architecture
from recbole_lite.model.layers.row_packing import pack_rows
from recbole_lite.model.layers.softmax_loss import cross_entropy
from recbole_lite.text.attention import use_explicit_mask
from recbole_lite.text.llm_loading import load_seq2seq
from recbole_lite.text.token_pooling import masked_mean
from recbole_lite.utils.errors import ConfigError, DataError


class GenerativeRecommender(SequentialRecommender):
    """Prompt -> encoder -> beam search over the item's tokens.

    With ``decoder: False`` ("w/o_d", arXiv 2402.09543, Section 3.3) an item projection head scores
    the mean of the encoder's outputs instead, as in LITE-LLM4Rec.

    Parameters
    ----------
    config : LiteConfig
        Keys: ``properties/model/<Model>.yaml``.
    dataset : LiteSequentialDataset

    Raises
    ------
    ConfigError, ModelFilesError, DataError
        A key is wrong; the language model or its tokenizer is not available; two items have the
        same tokens.

    Attributes
    ----------
    beam_counts : BeamCounts
        Counts of the beams of all evaluations since the last reset.
    """

    reads_any_length = True  # cut_padding
    writes_item_tokens = True  # cannot be distilled into
    knows_candidates = True  # task: topn; beams can be limited to candidates that are not read
    only_for_task = ("candidate_prompts.", "candidate_words.")  # weights that init_from may lack

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        vocabulary = self.item_vocabulary(config, dataset)
        # Checkpoints hold all three under these names.
        self.prompts, self.paths = vocabulary.prompts, vocabulary.trie
        self.candidate_prompts = vocabulary.candidate_prompts
        self.num_beams, self.constrained_beams = config["num_beams"], config["constrained_beams"]
        self.has_decoder = config["decoder"]
        if self.has_decoder:
            self._check_num_beams(config)
        llm = _language_model(config, vocabulary.vocab_size)
        architecture = llm.config
        d = architecture.d_model
        # T5's positions are distances, which prompts keep that share a row.
        self.packs_rows = config["cut_padding"] and architecture.model_type == "t5"
        if self.has_decoder:
            share_cross_attention(llm)
            self.llm = llm
        else:
            self.encoder_only = use_explicit_mask(llm.get_encoder())
            self.head = nn.Linear(d, self.n_items - 1, bias=False)  # row i - 1 scores item i
        # The tokens of one id share a vector ("whole-word embedding", P5, Section 3.3).
        self.whole_words = (
            nn.Embedding(self.max_seq_length + 2, d) if config["whole_word_embeddings"] else None
        )
        self.candidate_words = None
        if self.candidate_prompts is not None and self.whole_words is not None:
            self.candidate_words = nn.Embedding(config["topn_negatives"] + 1, d)
        # Continuous prompt (POD, Section 3.2): vectors before the tokens, uniform in +-0.1 as in
        # POD's code.
        self.prompt_vectors = nn.Parameter(torch.empty(config["prompt_length"], d))
        nn.init.uniform_(self.prompt_vectors, -0.1, 0.1)
        self.beam_counts = BeamCounts()

    def _check_num_beams(self, config) -> None:
        limits = {"items": self.n_items - 1}
        if config["task"] == "topn" and self.constrained_beams:
            limits["candidates"] = config["topn_negatives"] + 1
        for name, limit in limits.items():
            if self.num_beams > limit:
                raise ConfigError(
                    f"num_beams: {self.num_beams} beams, but there are only {limit} {name}"
                )

    def item_vocabulary(self, config, dataset) -> ItemVocabulary:
        """How this model writes users and items."""
        raise NotImplementedError

    @property
    def encoder(self) -> nn.Module:
        """The language model's encoder."""
        return self.llm.get_encoder() if self.has_decoder else self.encoder_only

    def tokens(self, interaction, template: torch.Tensor | None = None):
        """Token ids, whole words and mask of a batch's prompts, ``[B, T]`` each.

        Parameters
        ----------
        interaction : Interaction
        template : torch.Tensor, optional
            ``[B]`` numbers of templates, on the CPU; None: the first template.
        """
        device = interaction[self.ITEM_SEQ].device
        # On the host: the longest prompt decides the shape.
        item_seq, users = to_host(interaction[self.ITEM_SEQ]), self.user_numbers(interaction)
        if item_seq.numel() and int(item_seq.max()) >= self.n_items:
            raise DataError(
                f"the history holds item {int(item_seq.max())}; there are {self.n_items - 1} items"
            )
        if template is None:
            template = torch.zeros_like(users)
        if self.candidate_prompts is not None:
            candidates = to_host(interaction[CANDIDATES])
            parts = self.candidate_prompts(
                self.prompts, users, item_seq, candidates, template, self.max_seq_length
            )
        else:
            parts = self.prompts(users, item_seq, template)
        return tuple(tensor_to_device(part, device) for part in parts)

    def user_numbers(self, interaction) -> torch.Tensor:
        """Entry of each row's user in the users' tokens, ``[B]``, on the CPU."""
        return to_host(interaction[self.USER_ID])

    def encode(self, tokens, words, mask) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs of the encoder ``[B, T', d]`` and their mask; T' counts the prompt vectors."""
        vectors = self.encoder.get_input_embeddings()(tokens)
        if self.whole_words is not None:  # template, user, history, then the candidates
            word_vectors = self.whole_words.weight
            if self.candidate_words is not None:
                word_vectors = torch.cat([word_vectors, self.candidate_words.weight])
            vectors = vectors + F.embedding(words, word_vectors)
        host = to_host(mask)
        if n := len(self.prompt_vectors):
            prompt = self.prompt_vectors.expand(len(tokens), -1, -1)
            vectors = torch.cat([prompt, vectors], 1)
            mask, host = (F.pad(one, (n, 0), value=True) for one in (mask, host))
        packing = pack_rows(host, vectors.device) if self.packs_rows and self.training else None
        if packing is None:
            output = self.encoder(inputs_embeds=vectors, attention_mask=mask.long())
            return output.last_hidden_state, mask.long()
        visible = packing.attention_mask(causal=False, dtype=vectors.dtype)
        output = self.encoder(inputs_embeds=packing.pack(vectors), attention_mask=visible)
        return packing.unpack(output.last_hidden_state), mask.long()

    def forward(self, interaction) -> torch.Tensor:
        """Mean of the encoder's outputs, ``[B, d]`` (``decoder: False``)."""
        states, mask = self.encode(*self.tokens(interaction))
        return masked_mean(states, mask.bool())

    def calculate_loss(self, interaction):
        """Cross entropy of the item's tokens; with ``decoder: False`` over all items.

        With ``task: topn`` and ``decoder: False`` over the candidates.
        """
        targets = interaction[self.POS_ITEM_ID]
        n_templates = (self.candidate_prompts or self.prompts).n_templates
        template = torch.randint(n_templates, targets.shape)
        states, mask = self.encode(*self.tokens(interaction, template))
        if not self.has_decoder:
            h_u = masked_mean(states, mask.bool())
            if self.candidate_prompts is not None:
                candidates = interaction[CANDIDATES]
                scores = score_candidates(h_u, self.head.weight, candidates)
                return candidate_loss(scores, candidates, targets)
            return cross_entropy(h_u, self.head.weight, targets - 1)
        return self.llm(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            labels=self.paths.labels[targets],
        ).loss

    def loss_terms(self, interaction) -> int | torch.Tensor:
        """Number of tokens, or of rows, that a batch's loss is the mean over."""
        targets = interaction[self.POS_ITEM_ID]
        if not self.has_decoder:
            return len(targets)
        return (self.paths.labels[targets] != -100).sum()

    def beams(
        self, interaction, num_beams: int | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Items of the beams, ``[B, num_beams]`` internal ids, best first; 0: no item.

        Parameters
        ----------
        interaction : Interaction
        num_beams : int, optional
            Default: the setting.
        seen : torch.Tensor, optional
            ``[B, H]`` ids that constrained beams leave out, 0 for padding; default: the history,
            where the batch has all of it (``SEEN``).
        """
        states, mask = self.encode(*self.tokens(interaction))
        if seen is None and SEEN in interaction:
            seen = torch.cat([interaction[SEEN], interaction[self.ITEM_SEQ]], 1)
        return beam_search(
            self.llm,
            states,
            mask,
            self.paths,
            num_beams or self.num_beams,
            self.constrained_beams,
            _candidates(interaction),
            seen,
        )

    def full_sort_predict(self, interaction, **search):
        """Scores of all items, ``[B, n_items]``; `search` are arguments of :meth:`beams`.

        In a beam search the score of an item is minus the rank of its best beam, and -inf where no
        beam wrote it: then it is never a hit. With ``task: topn`` only candidates have a score.
        """
        candidates = _candidates(interaction)
        if not self.has_decoder:
            h_u = self.forward(interaction)
            if candidates is not None:
                scores = score_candidates(h_u, self.head.weight, candidates)
                return scatter_to_catalogue(scores, candidates, self.n_items)
            return F.pad(self.head(h_u), (1, 0), value=-torch.inf)
        items = self.beams(interaction, **search)
        self.beam_counts.add(items, candidates)
        if candidates is not None:
            items = items.masked_fill(unknown_items(items, candidates), 0)
        return beam_scores(items, self.n_items)

    def predict(self, interaction):
        """Scores of the given items, ``[B]``."""
        rows, inverse = distinct_rows(interaction, self.USER_ID, self.ITEM_SEQ)
        return self.full_sort_predict(rows)[inverse, interaction[self.ITEM_ID]]


def _candidates(interaction) -> torch.Tensor | None:
    return interaction[CANDIDATES] if CANDIDATES in interaction else None  # noqa: SIM401


def beam_scores(items: torch.Tensor, n_items: int) -> torch.Tensor:
    """Minus the rank of each item's best beam, -inf elsewhere: ``[B, W]`` -> ``[B, n_items]``."""
    ranks = torch.arange(0, -items.shape[1], -1, dtype=torch.float32, device=items.device)
    scores = torch.full((len(items), n_items), -torch.inf, device=items.device)
    scores.scatter_reduce_(1, items, ranks.expand_as(items), "amax")
    scores[:, 0] = -torch.inf
    return scores


def _language_model(config, vocab_size: int | None) -> PreTrainedModel:
    init, changes, dropout = (config[f"llm_{name}"] for name in ("init", "config", "dropout"))
    folder, architecture = read_architecture(
        config["llm"], init, changes, dropout, "llm", config["local_files_only"]
    )
    if vocab_size is not None:
        architecture.vocab_size = vocab_size
    if folder is None:
        architecture.pad_token_id = architecture.decoder_start_token_id = 0
        architecture.eos_token_id = 1
    return load_seq2seq(folder, architecture)
